# SPDX-License-Identifier: MIT
"""The records of tasks that nobody tells of otherwise: where the kernel rejects the EXITs of all but the leader.

Facts:
- The records of a process come in the order in which its tasks ended, but for those that end at the same time; all of
  them before any of the next process with its PID [kernel/taskstats.c, taskstats_exit(); kernel/exit.c].
- Each has the time since its process was forked.

So they are added up, by PID, from one last record to the next: what comes after that is of another life.
"""

from __future__ import annotations

from dataclasses import dataclass

from procwatchd.kernel.taskstats import LAST, TaskEnd
from procwatchd.process.tally import Tally

# Of one PID, lives whose leader's EXIT is still to come.
LIVES_LIMIT = 8


@dataclass(slots=True)
class Group:
    """What the tasks of one life but for the leader come to, with times since that began, at `began_ns` at the latest.

    They were received between `first_ns` and `last_ns`. `is_over` where the last task's record was there, even if that
    is the leader's.
    """

    tally: Tally
    first_ns: int
    last_ns: int
    began_ns: int
    is_over: bool = False

    @property
    def last(self) -> TaskEnd | None:
        """The last task's record, where that is none of the leader."""
        return self.tally.last

    def ended_ns(self, forked_ns: int | None) -> int:
        """When the life ended, whose last record is there; about, where its fork was not seen."""
        assert self.last is not None
        return (forked_ns or self.began_ns) + 1000 * self.last.process_elapsed_usec


class Others:
    """Keeps groups until they are asked for. One thread uses it. `given_up` counts those that nobody asked for."""

    KEPT = ("_groups", "_left")

    def __init__(self, limit: int) -> None:
        self.given_up = 0
        self._limit = limit
        # By PID, the oldest life first.
        self._groups: dict[int, list[Group]] = {}
        # Last records of lives that nobody asked for, each with the time when it was received.
        self._left: list[tuple[TaskEnd, int]] = []

    def __bool__(self) -> bool:
        return bool(self._groups)

    def __contains__(self, pid: int) -> bool:
        return pid in self._groups

    def pids(self) -> list[int]:
        """Of whom there is something."""
        return list(self._groups)

    def add(self, record: TaskEnd, received_ns: int) -> None:
        """Keep what was received at that time: the record of a task that is no leader."""
        groups = self._groups.setdefault(record.tgid, [])
        elapsed_ns = 1000 * record.process_elapsed_usec
        began_ns = received_ns - elapsed_ns
        if not groups or groups[-1].is_over:
            groups.append(Group(Tally(), received_ns, received_ns, began_ns))
        group = groups[-1]
        group.tally.add(record.status, elapsed_ns, record)
        group.last_ns = received_ns
        group.began_ns = min(group.began_ns, began_ns)
        group.is_over = bool(record.flags & LAST)
        if len(groups) > LIVES_LIMIT:
            self._let_go(groups.pop(0))
        if len(self._groups) > self._limit:
            for oldest in self._groups.pop(next(iter(self._groups))):
                self._let_go(oldest)

    def leader_was_last(self, pid: int) -> None:
        """The record of a leader says that it was the last task."""
        if pid in self._groups:
            self._groups[pid][-1].is_over = True

    def first(self, pid: int, since_ns: int) -> Group | None:
        """What there is of the life that began then, or of the next one; what is older is let go."""
        groups = self._groups.get(pid)
        if groups is None:
            return None
        while groups and groups[0].last_ns < since_ns:
            self._let_go(groups.pop(0))
        if not groups:
            del self._groups[pid]
            return None
        return groups[0]

    def take(
        self,
        pid: int,
        since_ns: int,
        before_ns: int | None,
        *,
        is_unsure: bool = False,
        leader_was_last: bool = False,
    ) -> Group | None:
        """What there is of the life that began then, of which no more will come.

        `before_ns` is when the next life with that PID began: with `is_unsure` this one's last record may be lost.
        `leader_was_last` says that it is elsewhere.
        """
        group = self.first(pid, since_ns)
        if group is None or (leader_was_last and group.last is not None):
            return None
        may_be_of_next = before_ns is not None and group.began_ns >= before_ns
        if may_be_of_next and (is_unsure or group.last is None):
            return None
        groups = self._groups[pid]
        del groups[0]
        if not groups:
            del self._groups[pid]
        return group

    def give_up(self, before_ns: int) -> list[tuple[TaskEnd, int]]:
        """Let go of what was received before then; gives the last records, each with the time when it was received."""
        for pid, groups in list(self._groups.items()):
            while groups and groups[0].last_ns < before_ns:
                self._let_go(groups.pop(0))
            if not groups:
                del self._groups[pid]
        left, self._left = self._left, []
        return left

    def _let_go(self, group: Group) -> None:
        self.given_up += 1
        if group.last is not None and len(self._left) < self._limit:
            self._left.append((group.last, group.last_ns))
