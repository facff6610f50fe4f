# SPDX-License-Identifier: MIT
"""The clocks of the kernel, and how they meet.

Facts:
- An event's timestamp is CLOCK_MONOTONIC; /proc/PID/stat field 22 (starttime) is CLOCK_BOOTTIME in ticks of
  1/100 s [fs/proc/array.c, copy_process()].
- BOOTTIME - MONOTONIC changes by suspend alone, while MONOTONIC stands still. So what was forked before has another
  difference than what was forked after, and of what was forked about then nobody can tell.
"""

from __future__ import annotations

import time
from collections import deque

TICKS_PER_SECOND = 100
NS_PER_TICK = 1_000_000_000 // TICKS_PER_SECOND

# Two readings of the clocks are never at one instant: what differs by less than this is no suspend.
_NOISE_NS = 1_000_000
# Whatever waits for its turn is not older than so many of them.
SUSPENDS = 16


class Clock:
    """Turns times of events into start ticks and wall-clock time."""

    def __init__(self) -> None:
        self.realtime_offset_ns = 0
        self._boottime_offset_ns = 0
        self._refreshed_ns = 0
        # The current difference holds from here on; before each suspend there was another, until between two looks.
        self._settled_ns = 0
        self._suspends: deque[tuple[int, int, int]] = deque(maxlen=SUSPENDS)
        self.refresh()

    def refresh(self) -> None:
        """Look at the clocks again: a suspend moves BOOTTIME, an administrator moves REALTIME."""
        begun_ns = time.monotonic_ns()
        offset_ns = _offset_ns(time.CLOCK_BOOTTIME)
        now_ns = time.monotonic_ns()
        if abs(offset_ns - self._boottime_offset_ns) > _NOISE_NS:
            if self._refreshed_ns:
                self._suspends.append((self._refreshed_ns, now_ns, self._boottime_offset_ns))
                self._settled_ns = now_ns
            self._boottime_offset_ns = offset_ns
        # Which of the two differences was seen, if it slept in between, nobody knows: the next look is from here on.
        self._refreshed_ns = begun_ns
        self.realtime_offset_ns = time.time_ns() - now_ns

    def start_ticks(self, monotonic_ns: int) -> tuple[int, int]:
        """The start time that /proc shows for a process forked at `monotonic_ns`, in ticks since boot.

        The earliest and the latest that it may be: they differ where the machine slept about then.
        """
        if monotonic_ns >= self._settled_ns:
            ticks = (monotonic_ns + self._boottime_offset_ns) // NS_PER_TICK
            return ticks, ticks
        latest_ns = self._boottime_offset_ns
        earliest_ns = latest_ns
        for before_ns, after_ns, offset_ns in reversed(self._suspends):
            if monotonic_ns >= after_ns:
                break
            earliest_ns = offset_ns
            if monotonic_ns > before_ns:
                break
            latest_ns = offset_ns
        return (monotonic_ns + earliest_ns) // NS_PER_TICK, (monotonic_ns + latest_ns) // NS_PER_TICK

    def now(self) -> tuple[int, int]:
        """The present moment, as CLOCK_MONOTONIC in ns and as wall-clock time in µs."""
        monotonic_ns = time.monotonic_ns()
        return monotonic_ns, self.realtime_usec(monotonic_ns)

    def realtime_usec(self, monotonic_ns: int) -> int:
        """Wall-clock time of an event."""
        return (monotonic_ns + self.realtime_offset_ns) // 1000


def _offset_ns(clock_id: int) -> int:
    """How far a clock is ahead of CLOCK_MONOTONIC, from the narrowest of a few readings."""
    best_width = best = 1 << 62
    for _ in range(5):
        before = time.monotonic_ns()
        there = time.clock_gettime_ns(clock_id)
        width = time.monotonic_ns() - before
        if width < best_width:
            best_width, best = width, there - before - width // 2
    return best
