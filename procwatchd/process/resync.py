# SPDX-License-Identifier: MIT
"""After a loss: what of the table is not so any more.

/proc is compared with the table twice. First it is read, while events go on: what differs may just not be told yet.
Once the events have been worked off that had been sent by then, whatever still differs was lost. It is done in small
steps, since what is read at once for the EXECs must not wait.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from procwatchd.process.ends import End, Ends
from procwatchd.process.model import Process
from procwatchd.process.procfs import NotRead, Reader, Reading
from procwatchd.process.table import Table

# So many processes are read, or found, in one step.
STEP = 16
# An EXIT is sent after /proc has forgotten the process; and so is a FORK after it knows it.
SETTLE_NS = 200_000_000
# So often at most: while more is lost all the time, there is always something to find.
INTERVAL_NS = 5_000_000_000

_DELETED = b" (deleted)"

Found = End | Process


@dataclass(slots=True)
class Summary:
    """What a resync found; between which kernel times events had been lost before it."""

    since_ns: int
    until_ns: int
    appeared: int = 0
    vanished: int = 0
    execed: int = 0


class Resync:
    """Compares /proc with the table, and puts that right. One thread uses it.

    `ask` is called when an event is needed that shows how far the events have been worked off.
    """

    KEPT = ("_wanted",)

    def __init__(self, table: Table, ends: Ends, reader: Reader, ask: Callable[[], object]) -> None:
        self._table = table
        self._ends = ends
        self._reader = reader
        self._ask = ask
        self._wanted: Summary | None = None
        self._running: Iterator[list[Found]] | None = None
        self._next_ns = 0
        self._concluded_ns = 0
        self._until_ns = 0
        self.summary = Summary(0, 0)
        self.begun_ns = 0

    def request(self, since_ns: int, until_ns: int) -> None:
        """Events were lost between these times: have a resync soon."""
        wanted = self._wanted
        if wanted is None:
            self._wanted = Summary(since_ns, until_ns)
        else:
            wanted.since_ns = min(wanted.since_ns, since_ns)
            wanted.until_ns = max(wanted.until_ns, until_ns)

    def widen(self, since_ns: int) -> None:
        """The loss that is looked into began earlier than was known."""
        for summary in (self._wanted, self.summary if self._running is not None else None):
            if summary is not None:
                summary.since_ns = min(summary.since_ns, since_ns)

    @property
    def is_running(self) -> bool:
        """Whether there is a step to do."""
        return self._running is not None

    @property
    def is_due(self) -> bool:
        """Whether there is a loss of which not everything is found yet."""
        return self._running is not None or self._wanted is not None

    @property
    def is_waiting(self) -> bool:
        """Whether there will be something to do only once more events are worked off."""
        return self._concluded_ns < self._until_ns

    def give_up(self) -> None:
        """What runs has failed: have another one in its place, later."""
        self._running = None
        self.request(self.summary.since_ns, self.summary.until_ns)

    def step(self, concluded_ns: int) -> list[Found] | None:
        """Do a little; gives what that found, None at the end. All events until `concluded_ns` are worked off."""
        self._concluded_ns = concluded_ns
        if self._running is None:
            if self._wanted is None or time.monotonic_ns() < self._next_ns:
                return []
            self.summary, self._wanted = self._wanted, None
            self.begun_ns = time.monotonic_ns()
            self._next_ns = self.begun_ns + INTERVAL_NS
            self._running = self._run()
        found = next(self._running, None)
        if found is None:
            self._running = None
        return found

    def _run(self) -> Iterator[list[Found]]:
        alive: dict[int, int] = {}
        unknown: dict[int, Reading] = {}
        different: dict[int, tuple[Process, Reading]] = {}
        for n, pid in enumerate(self._reader.pids()):
            if n % STEP == 0:
                yield []
            self._look(pid, alive, unknown, different)
        yield from self._settle()
        found: Iterator[Found]
        for found in (self._vanished(alive), self._appeared(unknown), self._execed(different)):
            some: list[Found] = []
            for one in found:
                some.append(one)
                if len(some) == STEP:
                    yield some
                    some = []
            yield some
        self._table.verified(self.begun_ns)

    def _look(
        self,
        pid: int,
        alive: dict[int, int],
        unknown: dict[int, Reading],
        different: dict[int, tuple[Process, Reading]],
    ) -> None:
        """Read one process, and keep it where it is not what the table has."""
        reading = self._reader.look(pid)
        known = self._table.get(pid)
        if reading is NotRead.REFUSED:
            alive[pid] = 0
        if not isinstance(reading, Reading) or reading.stat.has_ended:
            return
        alive[pid] = reading.stat.start_ticks
        if known is None or not _is_of(reading, known):
            unknown[pid] = reading
            return
        if reading.stat.threads > 1 or known.threads is not None:
            self._ends.met(known, self._reader.living_tids(pid, reading) or known.threads)
        if self._differs(known, reading):
            different[pid] = known, reading

    def _differs(self, known: Process, reading: Reading) -> bool:
        other_argv = reading.argv is not None and known.image.argv != reading.argv
        other_ids = reading.ids is not None and known.creds != self._table.creds(reading.ids)
        return other_argv or other_ids or _has_other_image(known, reading)

    def _settle(self) -> Iterator[list[Found]]:
        """Wait until all is worked off that was sent while /proc was read, and a moment after."""
        self._until_ns = time.monotonic_ns() + SETTLE_NS
        while time.monotonic_ns() < self._until_ns:
            yield []
        with contextlib.suppress(OSError):  # then the next event will do
            self._ask()
        while self._concluded_ns < self._until_ns:
            yield []

    def _vanished(self, alive: dict[int, int]) -> Iterator[Found]:
        # The older lives first: theirs are the older records.
        for process in self._table.take_left(self.begun_ns):
            yield self._end(process)
        for process in self._table.living():
            start_ticks = alive.get(process.pid)
            began_later = (process.forked_ns or 0) >= self.begun_ns
            if began_later or (start_ticks is not None and not _began_after(start_ticks, process)):
                continue
            if self._table.get(process.pid) is process:
                self._table.remove(process)
                yield self._end(process)
        for end in self._ends.unclaimed(self.begun_ns):
            self.summary.vanished += 1
            yield end

    def _end(self, process: Process) -> End:
        self.summary.vanished += 1
        return self._ends.vanished(process)

    def _appeared(self, unknown: dict[int, Reading]) -> Iterator[Found]:
        for pid, reading in sorted(unknown.items(), key=lambda item: item[1].stat.start_ticks):
            stat = self._reader.stat(pid)
            is_there = (
                stat is not None and stat.start_ticks == reading.stat.start_ticks and not stat.has_ended
            )
            if is_there and self._table.get(pid) is None:
                self.summary.appeared += 1
                process = self._table.appeared(pid, reading)
                process.inherited = _is_copy_of(process, process.parent)
                if reading.stat.threads > 1:
                    self._ends.met(process, self._reader.living_tids(pid, reading) or None)
                yield process
        self._table.adopt_orphans()

    def _execed(self, different: dict[int, tuple[Process, Reading]]) -> Iterator[Found]:
        for pid, (seen, reading) in different.items():
            known = self._table.get(pid)
            if known is None or known.execed_ns >= self.begun_ns or not _is_of(reading, known):
                continue
            has_other_image = _has_other_image(known, reading)
            process = self._table.renew(known, seen, reading)
            if has_other_image:
                self.summary.execed += 1
                yield process


def _is_of(reading: Reading, known: Process) -> bool:
    """Whether it is the same life, as far as the start tells; a FORK's time may be in a neighbouring tick."""
    if known.start_ticks is None:
        return True
    return abs(known.start_ticks - reading.stat.start_ticks) <= (0 if known.exact else 1)


def _began_after(start_ticks: int, known: Process) -> bool:
    return known.start_ticks is not None and start_ticks > known.start_ticks + (0 if known.exact else 1)


def _is_copy_of(process: Process, parent: Process | None) -> bool:
    """Whether it seems never to have called exec."""
    if parent is None:
        return False
    ours, theirs = process.image, parent.image
    return (ours.exe, ours.argv) == (theirs.exe, theirs.argv)


def _has_other_image(known: Process, reading: Reading) -> bool:
    """Whether there was an exec that the table does not know; arguments alone a program may change by itself."""
    if reading.exe is None or reading.argv is None or known.image.exe is None:
        return False
    if reading.argv != known.image.argv and reading.stat.comm != known.comm:
        return True
    return known.image.exe.removesuffix(_DELETED) != reading.exe.removesuffix(_DELETED)
