# SPDX-License-Identifier: MIT
"""What races against a process's end: reading /proc for EXECs, before anything slower; and what that was worth.

Facts:
- An exec changes the memory that cmdline and exe show a moment before its EXEC is sent [fs/exec.c,
  begin_new_exec(), exec_binprm()]. What is seen within that moment is the next image's already.
- EXIT is sent after a process's memory is gone and, it may be, its PID given to another.
- A tracer can hold a process amid an exec, between the change and the EXEC, as long as it likes [exec_binprm()].
- A new process can be seen before its FORK is sent [kernel/fork.c, copy_process()].

So EXECs are read when the bell rings, and what was read is used only if no event, of those received by then or since,
says that it is of another image or life. Where an exec was recorded, nothing of this matters.
"""

from __future__ import annotations

import time

from procwatchd.kernel.wire import EXEC, EXIT, FORK, GID, UID, RawEvent
from procwatchd.process.procfs import NotRead, Reader, Reading

# From the change of the memory to the EXEC's time it takes some ten microseconds.
EXEC_MARGIN_NS = 200_000
# A process can be read before its FORK is sent: some microseconds, but for whoever must wait for a CPU in between.
FORK_MARGIN_NS = 50_000_000
# From the new ids to the EXEC, with all that loading a program takes.
EXEC_NS = 20_000_000

Outcome = Reading | NotRead


def hear(event: RawEvent, reader: Reader) -> Outcome:
    """Read /proc for an EXEC that the bell brought."""
    return reader.read(event[9])


def read_execs(
    events: list[RawEvent],
    execs: list[int],
    heard: dict[tuple[int, int], Outcome],
    reader: Reader,
    *,
    is_behind: bool,
) -> dict[int, Outcome]:
    """What was read for the EXECs at these places among `events`, by their places.

    `heard` has what was read when the bell rang, by tgid and timestamp; it is taken out of there. What the bell did not
    tell is read now; but a process whose end, or whose next exec, is among the events is not: what /proc has by now
    is not what this exec made. Nor is any where more events wait, `is_behind`: they may say so, and nobody knows yet.
    """
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


def let_go(pid: int, reading: Reading, reader: Reader) -> bool:
    """Look again at one that was held amid an exec when it was read; whether it is held no more.

    If that exec was the next one, its EXEC is sent as soon as it goes on: so it is as if it had been read just now.
    """
    if reader.is_held(pid):
        return False
    reading.is_held = False
    reading.done_ns = time.monotonic_ns()
    return True


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


def settle(events: list[RawEvent], outcomes: dict[int, Outcome], count: int) -> None:
    """Take back the readings of which a later event says that they came too late.

    So, too, those of the first `count` events, which are to be concluded, that were never seen to be let go.
    """
    later: dict[int, RawEvent] = {}
    ids_changed_ns: dict[int, int] = {}
    for n in range(len(events) - 1, min(outcomes, default=0) - 1, -1):
        event = events[n]
        what, tid, tgid = event[5], event[8], event[9]
        if what in (UID, GID):
            ids_changed_ns[tgid] = event[7]
        elif what == EXIT and tid == tgid:
            later[tgid] = event
        elif what == FORK and event[10] == event[11]:
            # The next life of a PID; the EXIT of this one may come after it.
            later[event[11]] = event
        elif what == EXEC:
            reading = outcomes.get(n)
            if isinstance(reading, Reading):
                if (
                    ids_changed_ns.pop(tgid, reading.done_ns + EXEC_MARGIN_NS)
                    < reading.done_ns + EXEC_MARGIN_NS
                ):
                    reading.ids = None  # they may be those of a moment later
                why = _why_late(reading, later.get(tgid))
                if reading.is_held and n < count:
                    why = NotRead.HELD
                if why is not None:
                    outcomes[n] = why
            later[tgid] = event


def _why_late(reading: Reading, next_event: RawEvent | None) -> NotRead | None:
    """Why a reading came too late for its EXEC, by what came next of its process; None where it did not."""
    if next_event is None:
        return None
    what, at_ns = next_event[5], next_event[7]
    if what == EXEC:
        return NotRead.EXECED_AGAIN if at_ns < reading.done_ns + EXEC_MARGIN_NS else None
    until_ns = reading.begun_ns + (FORK_MARGIN_NS if what == FORK else 0)
    return NotRead.GONE if at_ns < until_ns else None


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
