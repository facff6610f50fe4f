# SPDX-License-Identifier: MIT
"""The kernel's records of ended tasks, until the EXIT that each belongs to comes.

Facts:
- A record is queued before its EXIT, and a task's id is given to another one only after that.
"""

from __future__ import annotations

from collections.abc import Iterable

from procwatchd.kernel.taskstats import LAST, TaskEnd
from procwatchd.process.model import Process
from procwatchd.process.others import Others

# Records that wait for their EXIT, which comes a moment after; those whose EXIT was lost wait for the resync.
WAITING_LIMIT = 1 << 16
WAITING_NS = 120_000_000_000

_Waiting = dict[int, list[tuple[TaskEnd, int]]]


class Records:
    """Records of ended tasks that wait for their EXIT. `given_up` counts those whose EXIT never came.

    Where no EXITs of single threads come (`follows_threads` is False), those of all but leaders go to `others`.
    """

    KEPT = ("follows_threads", "_waiting", "_left", "_last_tids")

    def __init__(self) -> None:
        self.follows_threads = True
        self.others = Others(WAITING_LIMIT)
        self._given_up = 0
        # By task id, oldest first, each with the time when it was received.
        self._waiting: _Waiting = {}
        # Those whose EXIT will not come any more: another life has their id.
        self._left: _Waiting = {}
        # Of processes whose last task was not the leader: that task's id.
        self._last_tids: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def given_up(self) -> int:
        """How many nobody asked for."""
        return self._given_up + self.others.given_up

    def add(self, records: Iterable[TaskEnd], received_ns: int) -> None:
        """Keep what was received at that time."""
        waiting = self._waiting
        for record in records:
            if record.tid != record.tgid:
                if not self.follows_threads:
                    self.others.add(record, received_ns)
                    continue
            elif record.flags & LAST and self.others:
                self.others.leader_was_last(record.tgid)
            waiting.setdefault(record.tid, []).append((record, received_ns))
            if record.flags & LAST and record.tid != record.tgid:
                self._last_tids[record.tgid] = record.tid
        for kept in (waiting, self._left):
            while len(kept) > WAITING_LIMIT:
                self._given_up += len(kept.pop(next(iter(kept))))
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
            self._given_up += 1
        for n, (record, _received_ns) in enumerate(found):
            if record.status == status and record.tgid == tgid:
                _remove(self._waiting, tid, n)
                if record.flags & LAST and tid != tgid:
                    self._last_tids.pop(tgid, None)
                return record, n
        return None, 0

    def hand_over(self, tid: int, tgid: int, status: int, ended_ns: int) -> None:
        """The EXIT of a task came, whose process goes by what is recorded: so let its record."""
        record, _older = self.take(tid, tgid, status, 0)
        if record is not None:
            self.others.add(record, ended_ns)

    def forget_leader(self, process: Process, execed_ns: int) -> None:
        """Let go of the records of leaders that an exec by another task ended, if their EXIT does not come.

        It may have that other task's id, where the one came a moment before the other.
        """
        for n, (record, _received_ns) in enumerate(self._waiting.get(process.pid, ())):
            ended_ns = (process.forked_ns or 0) + 1000 * record.process_elapsed_usec
            if not record.flags & LAST and ended_ns < execed_ns:
                _remove(self._waiting, process.pid, n)
                self._given_up += 1
                return

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
        self._given_up += len(waited)
        return left + waited + self.others.give_up(before_ns)


def _remove(kept: _Waiting, tid: int, n: int) -> None:
    del kept[tid][n]
    if not kept[tid]:
        del kept[tid]
