# SPDX-License-Identifier: MIT
"""What races against a process's end: reading /proc for EXECs, before anything slower; and what that was worth.

Facts:
- An exec changes the memory that cmdline and exe show a moment before its EXEC is sent [fs/exec.c,
  begin_new_exec(), exec_binprm()]. What is seen within that moment is the next image's already.
- EXIT is sent after a process's memory is gone and, it may be, its PID given to another.

So EXECs are read when the bell rings, and what was read is used only if no event, of those received by then or since,
says that it is of another image or life.
"""

from __future__ import annotations

import os

from procwatchd.kernel.wire import EXEC, EXIT, FORK, GID, UID, RawEvent
from procwatchd.process.procfs import NotRead, Reader, Reading
from procwatchd.process.table import Table

# From the change of the memory to the EXEC's time it takes some ten microseconds.
EXEC_MARGIN_NS = 200_000
# From the new ids to the EXEC, with all that loading a program takes.
EXEC_NS = 20_000_000

Outcome = Reading | NotRead


def hear(event: RawEvent, reader: Reader) -> Outcome:
    """Read /proc for an EXEC that the bell brought. Ids are for later: who its parent was is not known yet."""
    return reader.read(event[9])


def read_execs(
    events: list[RawEvent],
    first: int,
    heard: dict[tuple[int, int], Outcome],
    reader: Reader,
    *,
    is_behind: bool,
) -> dict[int, Outcome]:
    """What was read for the EXECs among `events` from `first` on, by their place there.

    `heard` has what was read when the bell rang, by tgid and timestamp; it is taken out of there. What the bell did not
    tell is read now; but a process whose end, or whose next exec, is among the events is not: what /proc has by now
    is not what this exec made. Nor is any where more events wait, `is_behind`: they may say so, and nobody knows yet.
    """
    execs = [n for n in range(first, len(events)) if events[n][5] == EXEC]
    if not execs:
        return {}
    outcomes: dict[int, Outcome] = {}
    unheard = []
    for n in execs:
        outcome = heard.pop((events[n][9], events[n][7]), None)
        if outcome is None:
            unheard.append(n)
        else:
            outcomes[n] = outcome
    if unheard:
        if is_behind:
            return outcomes | dict.fromkeys(unheard, NotRead.TOO_LATE)
        outcomes |= _overtaken(events, set(unheard))
        for n in unheard:
            if n not in outcomes:
                outcomes[n] = reader.read(events[n][9])
    return outcomes


def read_ids(events: list[RawEvent], outcomes: dict[int, Outcome], reader: Reader, table: Table) -> None:
    """Read the ids of strangers. Who is forked by one that the table knows has that one's, and its changes since."""
    known = {event[11] for event in events if event[5] == FORK and table.get(event[9]) is not None}
    for n, outcome in outcomes.items():
        tgid = events[n][9]
        if isinstance(outcome, Reading) and tgid not in known and table.get(tgid) is None:
            outcome.ids = reader.read_ids(tgid, outcome.stat.start_ticks)


def sent_by_execs(events: list[RawEvent]) -> set[RawEvent]:
    """The uid and gid events that an exec may have sent: nothing but its EXEC comes after them from the same thread.

    The kernel tells of a setuid program's new ids before it tells of the exec [fs/exec.c, begin_new_exec()].
    """
    if not any(event[5] in (UID, GID) for event in events):
        return set()
    found: set[RawEvent] = set()
    next_exec: dict[int, int] = {}
    for event in reversed(events):
        what, tid = event[5], event[8]
        if what == EXEC:
            next_exec[tid] = event[7]
        elif what in (UID, GID):
            if next_exec.get(tid, 0) - event[7] in range(EXEC_NS):
                found.add(event)
        else:
            next_exec.pop(tid, None)
    return found


def settle(events: list[RawEvent], outcomes: dict[int, Outcome]) -> None:
    """Take back the readings of which a later event says that they came too late."""
    later: dict[int, RawEvent] = {}
    for n in range(len(events) - 1, min(outcomes, default=0) - 1, -1):
        event = events[n]
        what, tid, tgid = event[5], event[8], event[9]
        if what == EXIT and tid == tgid:
            later[tgid] = event
        elif what == FORK and event[10] == event[11]:
            # The next life of a PID; the EXIT of this one may come after it.
            later[event[11]] = event
        elif what == EXEC:
            reading = outcomes.get(n)
            if tgid in later and isinstance(reading, Reading):
                _take_back(n, reading, later[tgid], outcomes)
            later[tgid] = event


def _take_back(n: int, reading: Reading, next_event: RawEvent, outcomes: dict[int, Outcome]) -> None:
    execed = next_event[5] == EXEC
    if next_event[7] < (reading.done_ns + EXEC_MARGIN_NS if execed else reading.begun_ns):
        outcomes[n] = NotRead.EXECED_AGAIN if execed else NotRead.GONE
        if reading.executable_fd is not None:
            os.close(reading.executable_fd)


def is_settled(events: list[RawEvent], outcomes: dict[int, Outcome], count: int) -> bool:
    """Whether the events at hand go beyond the time when the first `count` of them were read."""
    if not events:
        return True  # a batch may consist of strangers' datagrams alone
    read_until_ns = max(
        (o.done_ns for n, o in outcomes.items() if n < count and isinstance(o, Reading)), default=0
    )
    return events[-1][7] > read_until_ns + EXEC_MARGIN_NS


def _overtaken(events: list[RawEvent], execs: set[int]) -> dict[int, Outcome]:
    """The EXECs after which the leader's EXIT or another EXEC of the same process comes."""
    overtaken: dict[int, Outcome] = {}
    later: dict[int, NotRead] = {}
    for n in range(len(events) - 1, min(execs) - 1, -1):
        event = events[n]
        what, tid, tgid = event[5], event[8], event[9]
        if what == EXIT and tid == tgid:
            later[tgid] = NotRead.GONE
        elif what == EXEC:
            if tgid in later and n in execs:
                overtaken[n] = later[tgid]
            later[tgid] = NotRead.EXECED_AGAIN
    return overtaken
