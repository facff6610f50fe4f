# SPDX-License-Identifier: MIT
"""The ends of processes, and the kernel's records that say how they were.

Facts:
- taskstats has a record of each task that ends, queued before its EXIT; that of a process's last task is marked. The
  order of the two may differ from task to task: the last record need not be the last EXIT's [kernel/exit.c,
  do_exit(); kernel/taskstats.c].

So the record says whether a process has ended, and what is in it is believed where the table has something else.
Without one a process ends with the last of its tasks that are known.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from procwatchd.kernel.taskstats import FORKED_ONLY, LAST, TaskEnd
from procwatchd.process.model import UNKNOWN_IMAGE, Creds, Process
from procwatchd.process.table import Table
from procwatchd.process.tally import Tally, Usage, usage_alone

# Records that wait for their EXIT, which comes a moment after; those whose EXIT was lost wait for the resync.
WAITING_LIMIT = 1 << 16
WAITING_NS = 120_000_000_000

# What was recorded so soon after the listening began may have had its EXIT before.
BEGIN_NS = 10_000_000
# From the start of a process to its FORK.
FORK_NS = 50_000_000

TASKSTATS, CONNECTOR = "taskstats", "connector"


@dataclass(slots=True)
class End:
    """The end of a process: its wait status and where that is from, None where nobody knows; what the process took.

    `ended_ns` is about when it was (CLOCK_MONOTONIC), where no EXIT tells.
    """

    process: Process
    wait_status: int | None
    source: str | None
    usage: Usage = field(default_factory=Usage)
    ended_ns: int | None = None


class Ends:
    """Joins EXITs and records, and takes from the table who has ended. One thread uses it.

    `records` are those whose EXIT is still to come; `begun_ns` is when the listening began.
    """

    def __init__(self, table: Table) -> None:
        self.records = Records()
        self.begun_ns = 0
        self._table = table
        # Of lives from before then a record may be lost.
        self._lost_ns = 0

    def task_ended(self, tgid: int, tid: int, status: int, timestamp_ns: int) -> End | None:
        """A task ended: the end of its process, if that ended with it. A stranger is made up from what is known."""
        table = self._table
        lives = table.lives(tgid, tid)
        since_ns = (lives[0].forked_ns or 0) if lives else 0
        record, older = self.records.take(tid, tgid, status, since_ns)
        if not lives:
            return self._stranger_ended(tgid, tid, status, record)
        process = lives[min(older, len(lives) - 1)]
        if record is not None and tid == tgid and _is_older(record, process, timestamp_ns):
            earlier = table.take_earlier(process)
            return None if earlier is None else self._recorded(earlier, record)
        if process.threads is None and process.tally is None and tid == tgid:
            # By far the most never had another task.
            if record is None:
                table.remove(process)
                return End(process, status, CONNECTOR)
            if record.flags & LAST:
                table.remove(process)
                return self._recorded(process, record)
        if process.threads is None:
            process.threads = {tgid}
        if process.tally is None:
            process.tally = Tally()
        threads, tally = process.threads, process.tally
        threads.discard(tid)
        tally.add(status, timestamp_ns, record)
        if threads or (record is not None and tally.last is None):
            return None  # others go on, if only such as nobody told us of
        table.remove(process)
        status, is_certain = tally.status(status, timestamp_ns)
        if tally.last is None:
            return End(process, status, CONNECTOR)
        is_whole = (process.forked_ns or 0) > max(table.lost_ns, self._lost_ns)
        return End(
            self._as_recorded(process, tally.last),
            status,
            TASKSTATS if is_certain else CONNECTOR,
            tally.usage(is_whole=is_whole),
        )

    def vanished(self, process: Process) -> End:
        """A process is gone, and its EXIT was lost: what is known of its end."""
        tally = process.tally
        if tally is not None and tally.last is not None:
            last: TaskEnd | None = tally.last
        else:
            last = self.records.take_last(process)
        if tally is None:
            return End(process, None, None) if last is None else self._recorded(process, last)
        if last is not None and last is not tally.last:
            tally.add(last.status, 0, last)
        status = tally.known_status()
        recorded = tally.last is not None or not tally.unrecorded
        source = None if status is None else TASKSTATS if recorded else CONNECTOR
        process = process if last is None else self._as_recorded(process, last)
        return End(process, status, source, tally.usage(is_whole=False))

    def unclaimed(self, before_ns: int) -> list[End]:
        """The ends of those whose FORK and EXIT were both lost, by the records received before then; given once."""
        ends = []
        for record, received_ns in self.records.give_up(before_ns):
            if record.flags & LAST and received_ns > self.begun_ns + BEGIN_NS:
                process = self._table.stranger(record.tgid)
                process.parent = self._table.parent_of(record, received_ns)
                end = self._recorded(process, record)
                end.ended_ns = received_ns
                ends.append(end)
        return ends

    def lost(self, until_ns: int) -> None:
        """Records were lost before this time."""
        self._lost_ns = until_ns

    def _stranger_ended(self, tgid: int, tid: int, status: int, record: TaskEnd | None) -> End | None:
        process = self._table.stranger(tgid)
        if record is None:
            return End(process, status, CONNECTOR) if tid == tgid else None
        return self._recorded(process, record) if record.flags & LAST else None

    def _recorded(self, process: Process, last: TaskEnd) -> End:
        return End(self._as_recorded(process, last), last.status, TASKSTATS, usage_alone(last))

    def _as_recorded(self, process: Process, record: TaskEnd) -> Process:
        """A process as the record has it where that knows better; a thread's record has that thread's name and ids."""
        known = process.creds
        is_leaders = record.tid == record.tgid
        same_ids = known is not None and (
            not is_leaders or (known.uid, known.gid) == (record.uid, record.gid)
        )
        same_comm = not is_leaders or process.comm == record.comm
        execed_unseen = process.inherited and is_leaders and not record.flags & FORKED_ONLY
        if same_ids and same_comm and not execed_unseen and process.ppid is not None:
            return process
        changed = process.copy()
        if process.inherited and (execed_unseen or not same_comm):
            # It is no copy of the one that the table took it for.
            changed.image = UNKNOWN_IMAGE
        if not same_comm:
            changed.comm = record.comm
        if not same_ids:
            changed.creds = Creds(record.uid, None, record.gid, None, self._table.unknown_creds.users)
        if changed.ppid is None:
            changed.ppid = record.ppid
        return changed


def _is_older(record: TaskEnd, process: Process, ended_ns: int) -> bool:
    """Whether a record is of a process that began before this one."""
    if process.forked_ns is None:
        return False
    return ended_ns - 1000 * record.process_elapsed_usec < process.forked_ns - FORK_NS


_Waiting = dict[int, list[tuple[TaskEnd, int]]]


class Records:
    """Records of ended tasks that wait for their EXIT. `given_up` counts those whose EXIT never came."""

    def __init__(self) -> None:
        self.given_up = 0
        # By task id, oldest first, each with the time when it was received.
        self._waiting: _Waiting = {}
        # Those whose EXIT will not come any more: another life has their id.
        self._left: _Waiting = {}
        # Of processes whose last task was not the leader: that task's id.
        self._last_tids: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, records: Iterable[TaskEnd], received_ns: int) -> None:
        """Keep what was received at that time."""
        waiting = self._waiting
        for record in records:
            waiting.setdefault(record.tid, []).append((record, received_ns))
            if record.flags & LAST and record.tid != record.tgid:
                self._last_tids[record.tgid] = record.tid
        for kept in (waiting, self._left):
            while len(kept) > WAITING_LIMIT:
                self.given_up += len(kept.pop(next(iter(kept))))
        while len(self._last_tids) > WAITING_LIMIT:
            del self._last_tids[next(iter(self._last_tids))]

    def take(self, tid: int, tgid: int, status: int, since_ns: int) -> tuple[TaskEnd | None, int]:
        """The record of an EXIT of a task that began after that time, and how many older ones wait for theirs.

        A later life's EXIT can come before an earlier one's: where their statuses differ, they tell them apart.
        """
        found = self._waiting.get(tid)
        if found is None:
            return None, 0
        while found and found[0][1] < since_ns:
            self._left.setdefault(tid, []).append(found.pop(0))
            self.given_up += 1
        for n, (record, _received_ns) in enumerate(found):
            if record.status == status and record.tgid == tgid:
                _remove(self._waiting, tid, n)
                if record.flags & LAST and tid != tgid:
                    self._last_tids.pop(tgid, None)
                return record, n
        return None, 0

    def take_last(self, process: Process) -> TaskEnd | None:
        """The record of the last task of a process, whose EXIT was lost."""
        pid, since_ns = process.pid, process.forked_ns or 0
        tids = {pid, *(process.threads or ()), self._last_tids.get(pid, pid)}
        for kept in (self._left, self._waiting):
            for tid in tids:
                for n, (record, received_ns) in enumerate(kept.get(tid, ())):
                    if record.tgid == pid and record.flags & LAST and received_ns > since_ns:
                        _remove(kept, tid, n)
                        return record
        return None

    def give_up(self, before_ns: int) -> list[tuple[TaskEnd, int]]:
        """Let go of those whose EXIT was lost: of earlier lives, and what was received before then.

        Gives them, each with the time when it was received.
        """
        stale = [tid for tid, found in self._waiting.items() if not found or found[-1][1] < before_ns]
        left = [one for found in self._left.values() for one in found]
        waited = [one for tid in stale for one in self._waiting.pop(tid)]
        self._left.clear()
        if not self._waiting:
            self._last_tids.clear()
        self.given_up += len(waited)
        return left + waited


def _remove(kept: _Waiting, tid: int, n: int) -> None:
    del kept[tid][n]
    if not kept[tid]:
        del kept[tid]
