# SPDX-License-Identifier: MIT
"""The events at hand: taken in and not concluded yet, with what was recorded or read for their EXECs.

What arrives last is kept until the next batch is there, or none was for a moment, where its events have a say: about
what was read for those before, and whether a change of ids was an exec's.
"""

from __future__ import annotations

import time

from procwatchd.kernel.bell import Bell
from procwatchd.kernel.wire import EXEC, GID, UID, RawEvent
from procwatchd.process.enrich import (
    Outcome,
    hear,
    is_settled,
    let_go,
    read_execs,
    settle,
)
from procwatchd.process.procfs import Reader, Reading
from procwatchd.process.recorded import Recorded

# How long a batch waits for the next one.
SETTLE_SECONDS = 0.04
# Readings that wait for their events.
HEARD_LIMIT = 1024
# Between two looks at who is held by a tracer; and by when its EXEC is concluded anyway.
LOOK_AGAIN_SECONDS = 0.001
HELD_NS = 100_000_000


class Hand:
    """Keeps events and readings together. One thread uses it.

    `bell` is heard where there is one: what was not recorded is read at once. `recorded` is there if there is a
    recorder. `unused` counts the readings whose event did not come.
    """

    def __init__(self, reader: Reader, recorded: Recorded | None, own_pid: int) -> None:
        self.unused = 0
        self.bell: Bell | None = None
        self.recorded = recorded
        self._reader = reader
        self._own_pid = own_pid
        # What was read before its event came, by tgid and timestamp; of that, whom a tracer held.
        self._heard: dict[tuple[int, int], Outcome] = {}
        self._held: list[tuple[int, Reading]] = []
        # What is at hand; where the last batch begins; when it need not wait any longer.
        self._events: list[RawEvent] = []
        self._outcomes: dict[int, Outcome] = {}
        self._recorded_at: dict[int, Reading] = {}
        self._last_first = 0
        self._due = 0.0

    def __len__(self) -> int:
        return len(self._events)

    def hear(self, most: int = HEARD_LIMIT) -> None:
        """Read /proc for the EXECs that the bell has rung for."""
        bell = self.bell
        if bell is None:
            return
        for _ in range(most):
            event = bell.hear()
            if event is None:
                return
            if event[9] != self._own_pid:
                self._heard[event[9], event[7]] = outcome = hear(event, self._reader)
                if isinstance(outcome, Reading) and outcome.is_held:
                    self._held.append((event[9], outcome))
        while len(self._heard) > HEARD_LIMIT:
            # Their events were lost, or wait far behind.
            self.unused += 1
            del self._heard[next(iter(self._heard))]

    def look_again(self) -> None:
        """See whom a tracer holds no more."""
        if self._held:
            since_ns = time.monotonic_ns() - HELD_NS
            self._held = [
                (pid, reading)
                for pid, reading in self._held
                if reading.begun_ns > since_ns and not let_go(pid, reading, self._reader)
            ]

    def patience(self, most_seconds: float) -> float:
        """How long there is nothing to do here, at most so long."""
        if self._held:
            return min(most_seconds, LOOK_AGAIN_SECONDS)
        return min(most_seconds, max(0.0, self._due - time.monotonic())) if self._events else most_seconds

    def take_in(self, events: list[RawEvent], recordings: list[bytes], *, is_behind: bool) -> None:
        """Add what arrived, and read what neither a recording nor the bell told; `is_behind`: more waits behind it."""
        # The bell rang for all EXECs that are in it: the socket that is bound last is served first.
        self.hear()
        first = self._last_first = len(self._events)
        self._due = time.monotonic() + SETTLE_SECONDS
        self._events += events
        execs = [n for n, event in enumerate(events, first) if event[5] == EXEC]
        if self.recorded is not None:
            self.recorded.add(recordings)
            cut_or_missing = self._take_recorded(self.recorded, execs)
            if self.bell is None:
                execs = cut_or_missing
        if execs:
            outcomes = read_execs(self._events, execs, self._heard, self._reader, is_behind=is_behind)
            self._outcomes |= outcomes

    def _take_recorded(self, recorded: Recorded, execs: list[int]) -> list[int]:
        """Find the recordings of EXECs, by their places; gives the places of those that have none, or are cut."""
        cut_or_missing = []
        for n in execs:
            event = self._events[n]
            reading = recorded.take(event[9], event[7])
            if reading is None or not reading.is_whole:
                cut_or_missing.append(n)
            if reading is not None:
                self._recorded_at[n] = reading
        return cut_or_missing

    def ripe(self) -> int:
        """How many of the first events need wait no longer."""
        if time.monotonic() >= self._due:
            return len(self._events)
        if not self._outcomes and not any(
            event[5] in (UID, GID) for event in self._events[self._last_first :]
        ):
            return len(self._events)
        return self._last_first if is_settled(self._events, self._outcomes, self._last_first) else 0

    def play(self, count: int) -> tuple[list[RawEvent], dict[int, Outcome]]:
        """Give the first so many events away; gives all at hand, and by their places there what is known of them."""
        events, outcomes, recorded = self._events, self._outcomes, self._recorded_at
        self._events, self._last_first = events[count:], 0
        if outcomes:
            settle(events, outcomes, count)
            self._outcomes = {n - count: outcome for n, outcome in outcomes.items() if n >= count}
        if recorded:
            self._recorded_at = {n - count: reading for n, reading in recorded.items() if n >= count}
            ripe = {n: reading for n, reading in recorded.items() if n < count}
            outcomes = {
                **outcomes,
                **{n: _completed(reading, outcomes.get(n)) for n, reading in ripe.items()},
            }
        return events, outcomes


def _completed(recorded: Reading, read: Outcome | None) -> Reading:
    """What was recorded, with what only /proc has, if that was the same life's."""
    if not isinstance(read, Reading) or read.stat.start_ticks != recorded.stat.start_ticks:
        return recorded
    recorded.environment, recorded.is_environment_cut = read.environment, read.is_environment_cut
    recorded.checksum = read.checksum
    if not recorded.is_whole and _are_same(recorded, read):
        recorded.exe, recorded.argv, recorded.argv_tail = read.exe, read.argv, read.argv_tail
    return recorded


def _are_same(recorded: Reading, read: Reading) -> bool:
    """Whether what was recorded and what was read are of the same image, as far as the first goes."""
    return (
        read.argv is not None
        and read.argv_bytes == recorded.argv_bytes
        and read.argv.startswith(recorded.argv or b"")
        and (read.argv_tail or read.argv).endswith(recorded.argv_tail)
        and recorded.exe in (read.exe, None)
    )
