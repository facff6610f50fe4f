# SPDX-License-Identifier: MIT
"""The ends of processes, and the kernel's records that say how they were.

Facts:
- taskstats has a record of each task that ends, queued before its EXIT; that of a process's last task is marked. The
  order of the two may differ from task to task: the last record need not be the last EXIT's [kernel/exit.c,
  do_exit(); kernel/taskstats.c].

So the record says whether a process has ended, and what is in it is believed where the table has something else.
Without one a process ends with the last of its tasks that are known.

Where the kernel rejects the events of single threads, only the leader's EXIT comes. A process has ended then when that
was worked off and the last record is there, in whichever order. If the leader was not the last task, its end is told
late: once all events until then are worked off, or its PID is given to another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from procwatchd.kernel.taskstats import FORKED_ONLY, LAST, TaskEnd
from procwatchd.process.model import UNKNOWN_IMAGE, Creds, Process
from procwatchd.process.others import Group
from procwatchd.process.procfs import Stat
from procwatchd.process.table import Table
from procwatchd.process.tally import Tally, Usage, usage_alone
from procwatchd.process.waiting import Records

# What was recorded so soon after the listening began may have had its EXIT before.
BEGIN_NS = 10_000_000
# From the start of a process to its FORK.
FORK_NS = 50_000_000

# By how much events of different CPUs may come in another order than they were sent in.
REORDER_NS = 1_000_000

TASKSTATS, CONNECTOR = "taskstats", "connector"


@dataclass(slots=True)
class End:
    """The end of a process: its wait status and where that is from, None where nobody knows; what the process took.

    `ended_ns` is about when it was (CLOCK_MONOTONIC), where no EXIT tells. `has_exit`: it is told late, and the EXIT of
    the leader stands for it.
    """

    process: Process
    wait_status: int | None
    source: str | None
    usage: Usage = field(default_factory=Usage)
    ended_ns: int | None = None
    has_exit: bool = False


class Ends:
    """Joins EXITs and records, and takes from the table who has ended. One thread uses it.

    `records` are those whose EXIT is still to come; `begun_ns` is when the listening began. `follows_threads` where
    the EXITs of all tasks come; where they do not, `has_all_tasks` says whether their records do. `late` are the
    ends that can be told by now, of those whose leader ended before, for the caller to take; `is_due` where there will
    be some as soon as it is sure that all events until then were worked off. `stat` reads /proc/PID/stat.
    """

    KEPT = (
        "begun_ns",
        "follows_threads",
        "has_all_tasks",
        "_are_threads_told",
        "_follow_after_ns",
        "_leaderless",
        "_lost_ns",
    )

    def __init__(self, table: Table, stat: Callable[[int], Stat | None] = lambda _pid: None) -> None:
        self.records = Records()
        self.begun_ns = 0
        self.follows_threads = True
        self.has_all_tasks = True
        self.is_due = False
        self.late: list[End] = []
        self._stat = stat
        # What was asked for, and from which event on that holds for `follows_threads`.
        self._are_threads_told = True
        self._follow_after_ns: int | None = None
        # The living whose leader has ended: when its EXIT was, None where that is accounted for.
        self._leaderless: dict[int, int | None] = {}
        self._table = table
        # Of lives from before then a record may be lost.
        self._lost_ns = 0

    def configure(self, *, follows_threads: bool, has_all_tasks: bool, now_ns: int) -> None:
        """What comes from now on of single threads."""
        if has_all_tasks and not self.has_all_tasks:
            self.lost(now_ns)  # what was rejected is missing as if it were
        self.has_all_tasks = has_all_tasks
        self._are_threads_told = follows_threads
        if follows_threads == self.follows_threads:
            self._follow_after_ns = None
        elif follows_threads:
            # Until then the records of those come whose EXIT was still rejected.
            self._follow_after_ns = now_ns + REORDER_NS
        else:
            self._follow(is_on=False)

    def _follow(self, *, is_on: bool) -> None:
        self._follow_after_ns = None
        self.follows_threads = self.records.follows_threads = is_on
        self.find_leaderless()

    def find_leaderless(self) -> None:
        """Of the living only that is kept which is kept up: their threads, or whether the leader has ended."""
        if not self.follows_threads:
            for process in self._table.living():
                self.met(process, process.threads)

    def met(self, process: Process, tids: set[int] | None) -> None:
        """These were the living tasks of a process, None where that is not known."""
        if self.follows_threads:
            process.threads = tids
        elif tids is not None and process.pid not in tids:
            process.threads = set()
            self._leaderless.setdefault(process.pid, None)
        else:
            process.threads = None
            self._leaderless.pop(process.pid, None)

    @property
    def waiting(self) -> int:
        """How many EXITs of leaders wait for the end of their process."""
        return sum(exit_ns is not None for exit_ns in self._leaderless.values())

    def stop_waiting(self) -> None:
        """No EXIT stands for the end of its process any more: it is not needed."""
        self._leaderless = dict.fromkeys(self._leaderless)

    def task_ended(self, tgid: int, tid: int, status: int, timestamp_ns: int) -> End | None:
        """A task ended: the end of its process, if that ended with it. A stranger is made up from what is known."""
        if tid != tgid and (not self.follows_threads or tgid in self._leaderless):
            self.records.hand_over(tid, tgid, status, timestamp_ns)
            return self._last_ended(tgid, tid)
        table = self._table
        lives = table.lives(tgid, tid)
        since_ns = (lives[0].forked_ns or 0) if lives else 0
        record, older = self.records.take(tid, tgid, status, since_ns)
        if not lives:
            return self._stranger_ended(tgid, tid, status, record)
        process = lives[min(older, len(lives) - 1)]
        if record is not None and tid == tgid and _is_older(record, process, timestamp_ns):
            earlier = table.take_earlier(process)
            if earlier is not None:
                return self._recorded(earlier, record)
            if table.lost_ns >= _began_ns(record, timestamp_ns) and not self._is_gone(process):
                return None  # of one whose FORK was lost
            # Else a CPU was taken away amid its fork.
        if tid == tgid and (not self.follows_threads or tgid in self.records.others):
            return self._leader_ended(process, status, timestamp_ns, record)
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
        threads, tally = process.threads, _tally_of(process)
        threads.discard(tid)
        tally.add(status, timestamp_ns, record)
        if threads or (record is not None and tally.last is None):
            return None  # others go on, if only such as nobody told us of
        table.remove(process)
        return self._told(process, tally, status, timestamp_ns)

    def execed(self, tgid: int, timestamp_ns: int) -> None:
        """A process became another program: if its leader had ended, another task has taken that one's place."""
        self._leaderless.pop(tgid, None)
        process = self._table.get(tgid)
        if process is not None and process.forked_ns is not None:
            self.records.forget_leader(process, timestamp_ns)

    def given_away(self, process: Process) -> None:
        """Another process has its PID."""
        if process.pid in self._leaderless:
            self._end_late(process)

    def ripen(self, until_ns: float) -> None:
        """All events until then are worked off: see who ended by then; what else was recorded is the living's."""
        self.is_due = False
        if self._follow_after_ns is not None and until_ns > self._follow_after_ns:
            self._follow(is_on=True)
        for pid in self.records.others.pids():
            process = self._table.get(pid)
            if process is None:
                continue
            group = self.records.others.first(pid, process.forked_ns or 0)
            if group is None:
                continue
            if not group.is_over:
                if group.last_ns <= until_ns and group.began_ns > (process.forked_ns or 0) - FORK_NS:
                    self._join_others(process)
            elif pid in self._leaderless and group.last is not None:
                if group.ended_ns(process.forked_ns) <= until_ns:
                    self._end_late(process)
                else:
                    self.is_due = True

    def _leader_ended(
        self, process: Process, status: int, timestamp_ns: int, record: TaskEnd | None
    ) -> End | None:
        """The leader of a process ended, of whose other tasks no EXIT comes: the end of it, if that is sure now."""
        is_last = record is not None and bool(record.flags & LAST)
        if (
            record is not None
            and is_last
            and process.tally is None
            and process.pid not in self.records.others
        ):
            # By far the most never had another task.
            self._table.remove(process)
            return self._recorded(process, record)
        tally = _tally_of(process)
        tally.add(status, timestamp_ns, record)
        is_over = is_last or self._table.get(process.pid) is not process
        if is_over or (record is None and self._is_gone(process)):
            self._join_others(process, leader_was_last=is_last)
            self._table.remove(process)
            return self._told(process, tally, status, timestamp_ns)
        process.threads = set()
        self._leaderless[process.pid] = None if self._are_threads_told else timestamp_ns
        return None

    def _last_ended(self, tgid: int, tid: int) -> End | None:
        """The EXIT of a task came that need not: the end of its process if that was the last one, after the leader."""
        process = self._table.get(tgid)
        if process is None or tgid not in self._leaderless:
            return None
        group = self.records.others.first(tgid, process.forked_ns or 0)
        if group is None or group.last is None or group.last.tid != tid:
            return None
        del self._leaderless[tgid]
        self._table.remove(process)
        return self._known_end(process)

    def _end_late(self, process: Process) -> None:
        exit_ns = self._leaderless.pop(process.pid)
        self._table.remove(process)
        end = self._known_end(process)
        end.has_exit = exit_ns is not None
        self.late.append(end)

    def _known_end(self, process: Process) -> End:
        """What is known of the end of a process whose last EXIT does not come."""
        group = self._join_others(process)
        tally = _tally_of(process)
        if tally.last is None:
            status = tally.known_status()
            return End(process, status, None if status is None else CONNECTOR)
        ended_ns = group.ended_ns(process.forked_ns) if group is not None and group.last is not None else 0
        end = self._told(process, tally, tally.last.status, ended_ns)
        end.ended_ns = ended_ns or None
        return end

    def _join_others(self, process: Process, *, leader_was_last: bool = False) -> Group | None:
        """Add to a life's tally what was recorded of its tasks that nobody else tells of; gives that."""
        forked_ns, lives = process.forked_ns or 0, self._table.lives(process.pid, process.pid)
        later = [life.forked_ns for life in lives if (life.forked_ns or 0) > forked_ns]
        group = self.records.others.take(
            process.pid,
            forked_ns,
            min(filter(None, later), default=None),
            is_unsure=self._lost_ns >= forked_ns,
            leader_was_last=leader_was_last,
        )
        if group is not None:
            began_ns = process.forked_ns or group.began_ns
            _tally_of(process).join(group.tally, began_ns, process.execed_ns)
        return group

    def _is_gone(self, process: Process) -> bool:
        """Whether a process has ended as far as /proc knows, or another one has its PID."""
        stat = self._stat(process.pid)
        if stat is None or stat.has_ended:
            return True
        start_ticks = process.start_ticks
        return start_ticks is not None and abs(stat.start_ticks - start_ticks) > (0 if process.exact else 1)

    def _told(self, process: Process, tally: Tally, status: int, timestamp_ns: int) -> End:
        """The end of a process all of whose tasks are in the tally, the last of them with this status, then."""
        status, is_certain = tally.status(status, timestamp_ns)
        if tally.last is None:
            return End(process, status, CONNECTOR)
        is_whole = self.has_all_tasks and (process.forked_ns or 0) > max(self._table.lost_ns, self._lost_ns)
        return End(
            self._as_recorded(process, tally.last),
            status,
            TASKSTATS if is_certain else CONNECTOR,
            tally.usage(is_whole=is_whole),
        )

    def vanished(self, process: Process) -> End:
        """A process is gone, and its EXIT was lost: what is known of its end."""
        if self._leaderless and self._table.get(process.pid) is None:
            self._leaderless.pop(process.pid, None)
        self._join_others(process)
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


def _tally_of(process: Process) -> Tally:
    """The tally of a life, from now on."""
    if process.tally is None:
        process.tally = Tally()
    return process.tally


def _is_older(record: TaskEnd, process: Process, ended_ns: int) -> bool:
    """Whether a record is of a process that began before this one."""
    if process.forked_ns is None:
        return False
    return _began_ns(record, ended_ns) < process.forked_ns - FORK_NS


def _began_ns(record: TaskEnd, ended_ns: int) -> int:
    return ended_ns - 1000 * record.process_elapsed_usec
