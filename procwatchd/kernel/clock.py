# SPDX-License-Identifier: MIT
"""The clocks of the kernel, and how they meet.

Facts:
- An event's timestamp is CLOCK_MONOTONIC; /proc/PID/stat field 22 (starttime) is CLOCK_BOOTTIME in ticks of
  1/100 s [fs/proc/array.c, copy_process()].
- BOOTTIME - MONOTONIC changes by suspend alone.
"""

from __future__ import annotations

import time

TICKS_PER_SECOND = 100
NS_PER_TICK = 1_000_000_000 // TICKS_PER_SECOND

# Two readings of the clocks are never at one instant: what differs by less than this is no suspend.
_NOISE_NS = 1_000_000


class Clock:
    """Turns times of events into start ticks and wall-clock time."""

    def __init__(self) -> None:
        self.boottime_offset_ns = 0
        self.realtime_offset_ns = 0
        self.refresh()

    def refresh(self) -> None:
        """Look at the clocks again: a suspend moves BOOTTIME, an administrator moves REALTIME."""
        boottime_ns = _offset_ns(time.CLOCK_BOOTTIME)
        if abs(boottime_ns - self.boottime_offset_ns) > _NOISE_NS:
            self.boottime_offset_ns = boottime_ns
        self.realtime_offset_ns = time.time_ns() - time.monotonic_ns()

    def start_ticks(self, monotonic_ns: int) -> int:
        """The start time that /proc shows for a process forked at `monotonic_ns`."""
        return (monotonic_ns + self.boottime_offset_ns) // NS_PER_TICK

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
