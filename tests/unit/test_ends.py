# SPDX-License-Identifier: MIT
"""Ends of processes: from EXITs alone, and with the kernel's records."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from procwatchd.kernel.taskstats import FORKED_ONLY, LAST, SIGNALED, TaskEnd
from procwatchd.process import waiting as waiting_module
from procwatchd.process.ends import CONNECTOR, TASKSTATS, End, Ends
from procwatchd.process.model import Process
from procwatchd.process.others import LIVES_LIMIT
from procwatchd.process.procfs import Reader, Stat, Wants
from procwatchd.process.table import Table
from procwatchd.process.tally import SAME_END_NS, Usage
from tests.unit.fakeproc import FakeProc
from tests.unit.test_table import add, at, reading, table

__all__ = ["table"]

# Wait statuses.
CODE_3, CODE_7, SIGKILL = 3 << 8, 7 << 8, 9


def record(
    tid: int,
    status: int = 0,
    *,
    tgid: int | None = None,
    flags: int = LAST,
    comm: bytes = b"prog",
    uid: int = 5,
    gid: int = 5,
    ppid: int = 1,
    cpu_ns: int = 4_000,
    group_cpu_ns: int | None = None,
) -> TaskEnd:
    """What the kernel has of the end of a task: of a process's last one, if nothing else is said."""
    return TaskEnd(
        tid=tid,
        tgid=tid if tgid is None else tgid,
        ppid=ppid,
        uid=uid,
        gid=gid,
        comm=comm,
        status=status,
        flags=flags,
        elapsed_usec=10,
        process_elapsed_usec=20,
        cpu_ns=cpu_ns,
        memory_peak_bytes=4096,
        read_bytes=100,
        write_bytes=1000,
        group_cpu_ns=group_cpu_ns,
    )


ALONE = Usage(20, 4, 4096, 100, 1000)


@pytest.fixture
def ends(table: Table) -> Ends:
    return Ends(table)


def add_threads(table: Table, *tids: int, pid: int = 10) -> Process:
    """A process that has exec'ed, with these other tasks."""
    add(table, pid)
    process = table.exec(pid, reading(start=100), at(100))
    for tid in tids:
        table.thread_forked(pid, tid)
    return process


def test_without_a_record_the_connector_is_believed(table: Table, ends: Ends) -> None:
    process = add(table, 10)
    assert ends.task_ended(10, 10, CODE_3, at(200)) == End(process, CODE_3, CONNECTOR, Usage())
    assert table.get(10) is None


@pytest.mark.parametrize(
    ("leader", "others", "expected"),
    [
        (47 << 8, [47 << 8, 0], 47 << 8),  # one thread was ending by itself when another called exit
        (0, [CODE_3], CODE_3),  # the leader first
        (SIGKILL, [SIGKILL, SIGKILL], SIGKILL),
        (SIGKILL, [SIGKILL, 0], SIGKILL),
        (0, [0, 0], 0),
    ],
)
def test_the_status_of_a_threaded_process(
    table: Table, ends: Ends, leader: int, others: list[int], expected: int
) -> None:
    process = add_threads(table, *range(11, 11 + len(others)))
    statuses = {10: leader, **dict(enumerate(others, 11))}
    found = [ends.task_ended(10, tid, status, at(200)) for tid, status in statuses.items()]
    assert found == [None] * len(others) + [End(process, expected, CONNECTOR)]


@pytest.mark.parametrize(
    ("status", "after_ns", "expected"),
    [(CODE_3, SAME_END_NS, CODE_3), (CODE_3, SAME_END_NS + 1, 0), (SIGKILL, 10 * SAME_END_NS, SIGKILL)],
)
def test_a_code_that_a_thread_ended_with_long_ago_is_not_the_process_s(
    table: Table, ends: Ends, status: int, after_ns: int, expected: int
) -> None:
    process = add_threads(table, 11)
    assert ends.task_ended(10, 11, status, at(200)) is None
    assert ends.task_ended(10, 10, 0, at(200) + after_ns) == End(process, expected, CONNECTOR)


def test_a_status_is_not_left_to_the_next_life(table: Table, ends: Ends) -> None:
    add_threads(table, 11)
    assert ends.task_ended(10, 11, SIGKILL, at(110)) is None
    table.lost(at(150))  # and with it the end of that life
    second = add(table, 10, tick=200)
    table.thread_forked(10, 11)
    assert ends.task_ended(10, 10, 0, at(201)) is None
    assert ends.task_ended(10, 11, 0, at(201)) == End(second, 0, CONNECTOR)


def test_a_status_is_not_left_to_the_next_image(table: Table, ends: Ends) -> None:
    for status in (SIGKILL, CODE_3):
        add_threads(table, 11, 12)
        assert ends.task_ended(10, 11, status, at(200)) is None
        process = table.exec(10, reading(start=100), at(200))
        assert ends.task_ended(10, 10, 0, at(200)) == End(process, 0, CONNECTOR)


def test_a_leader_that_had_ended_before_the_scan_is_not_waited_for(
    table: Table, ends: Ends, tmp_path: Path
) -> None:
    proc = FakeProc(tmp_path / "proc")
    proc.add(20, comm=b"threads", state=b"Z", threads=2, start=50)
    table.scan(Reader(Wants(), proc=str(proc.root)))
    found = ends.task_ended(20, 21, CODE_3, at(200))
    assert found is not None
    assert (found.process.comm, found.wait_status) == (b"threads", CODE_3)


def test_the_record_says_what_a_process_took(table: Table, ends: Ends) -> None:
    process = add_threads(table)
    ends.records.add([record(10, CODE_3)], at(200))
    assert ends.task_ended(10, 10, CODE_3, at(200)) == End(process, CODE_3, TASKSTATS, ALONE)
    assert table.get(10) is None
    assert len(ends.records) == 0


def test_what_the_record_has_as_0_is_unknown(table: Table, ends: Ends) -> None:
    add_threads(table)
    ends.records.add([record(10)._replace(memory_peak_bytes=0, read_bytes=0)], at(200))
    found = ends.task_ended(10, 10, 0, at(200))
    assert found is not None
    assert (found.usage.memory_peak, found.usage.io_read_bytes) == (None, 0)


def test_a_record_of_another_task_is_not_taken(table: Table, ends: Ends) -> None:
    others = [record(10, CODE_7), record(10, CODE_3, tgid=9), record(11, CODE_3)]
    process = add_threads(table)
    ends.records.add(others, at(200))
    assert ends.task_ended(10, 10, CODE_3, at(200)) == End(process, CODE_3, CONNECTOR)
    assert len(ends.records) == 2  # task ids


def test_where_the_record_says_that_others_go_on_it_is_not_the_end(table: Table, ends: Ends) -> None:
    process = add_threads(table)  # and threads whose FORKs were lost
    ends.records.add([record(10, flags=0), record(11, tgid=10, flags=0)], at(200))
    ends.records.add([record(12, CODE_3, tgid=10, group_cpu_ns=9_000)], at(200))
    assert ends.task_ended(10, 10, 0, at(200)) is None
    assert ends.task_ended(10, 11, 0, at(200)) is None
    assert table.get(10) is process
    found = ends.task_ended(10, 12, CODE_3, at(200))
    assert found is not None
    assert (found.process, found.wait_status, found.source) == (process, CODE_3, TASKSTATS)
    assert table.get(10) is None


def test_the_last_record_need_not_be_the_last_exits(table: Table, ends: Ends) -> None:
    process = add_threads(table, 11)
    ends.records.add([record(10, CODE_3, flags=0), record(11, CODE_3, tgid=10, group_cpu_ns=8_000)], at(200))
    assert ends.task_ended(10, 11, CODE_3, at(200)) is None
    found = ends.task_ended(10, 10, CODE_3, at(200))
    assert found is not None
    assert (found.process, found.wait_status, found.source) == (process, CODE_3, TASKSTATS)


def test_the_status_is_that_of_the_last_record(table: Table, ends: Ends) -> None:
    add_threads(table, 11)
    ends.records.add([record(10, CODE_7, flags=0), record(11, CODE_3, tgid=10)], at(200))
    assert ends.task_ended(10, 11, CODE_3, at(200)) is None
    found = ends.task_ended(10, 10, CODE_7, at(200) + 10 * SAME_END_NS)
    assert found is not None
    assert found.wait_status == CODE_3


def test_one_end_where_a_task_nobody_knew_comes_after_the_last(table: Table, ends: Ends) -> None:
    add_threads(table)
    ends.records.add([record(10), record(11, tgid=10, flags=0)], at(200))
    assert ends.task_ended(10, 10, 0, at(200)) is not None
    assert ends.task_ended(10, 11, 0, at(200)) is None


@pytest.mark.parametrize(
    ("leader", "last", "expected"),
    [
        ((CODE_7, SIGNALED), (0, 0), CODE_7),  # exit_group(7), and the last one was just ending by itself
        ((0, SIGNALED), (0, 0), 0),
        ((SIGKILL, SIGNALED), (SIGKILL, SIGNALED), SIGKILL),
        ((CODE_3, 0), (CODE_7, 0), CODE_7),  # each by itself: the last one's
    ],
)
def test_whose_status_is_the_process_s(
    table: Table, ends: Ends, leader: tuple[int, int], last: tuple[int, int], expected: int
) -> None:
    add_threads(table, 11)
    ends.records.add([record(10, leader[0], flags=leader[1])], at(200))
    ends.records.add([record(11, last[0], tgid=10, flags=LAST | last[1])], at(200))
    assert ends.task_ended(10, 10, leader[0], at(200)) is None
    found = ends.task_ended(10, 11, last[0], at(200) + 10 * SAME_END_NS)
    assert found is not None
    assert found.wait_status == expected


def test_an_exec_by_a_thread_is_one_life(table: Table, ends: Ends) -> None:
    add_threads(table, 11)
    ends.records.add([record(10, 0, flags=SIGNALED)], at(200))
    assert ends.task_ended(10, 10, 0, at(200)) is None
    process = table.exec(10, reading(start=100), at(201))
    ends.records.add([record(10, CODE_3, group_cpu_ns=9_000)], at(300))
    found = ends.task_ended(10, 10, CODE_3, at(300))
    assert found is not None
    assert (found.process, found.wait_status, found.source) == (process, CODE_3, TASKSTATS)
    # The thread that was the leader is in it.
    assert (found.usage.cpu_usec, found.usage.io_read_bytes) == (9, 200)


def test_a_thread_that_an_exec_ended_may_be_told_of_after_it(table: Table, ends: Ends) -> None:
    """Its EXIT is sent after the exec need not wait for it any more; its status is 0, and it is marked as killed."""
    add_threads(table, 11)
    ends.records.add([record(11, 0, tgid=10, flags=SIGNALED)], at(200))
    process = table.exec(10, reading(start=100), at(200))
    assert ends.task_ended(10, 11, 0, at(200)) is None
    ends.records.add([record(10, CODE_3, group_cpu_ns=9_000)], at(300))
    found = ends.task_ended(10, 10, CODE_3, at(300))
    assert found is not None
    assert (found.process, found.wait_status) == (process, CODE_3)


def threaded_usage(ends: Ends, *, recorded: bool = True) -> Usage:
    """What a process took whose leader and one thread took the same."""
    if recorded:
        ends.records.add([record(10, flags=0)], at(200))
    ends.records.add([record(11, tgid=10, group_cpu_ns=7_500)], at(200))
    assert ends.task_ended(10, 10, 0, at(200)) is None
    found = ends.task_ended(10, 11, 0, at(200))
    assert found is not None
    return found.usage


def test_all_tasks_together(table: Table, ends: Ends) -> None:
    add_threads(table, 11)
    assert threaded_usage(ends) == Usage(20, 8, 4096, 200, 2000)


def test_the_kernels_sum_has_whom_we_did_not_see(table: Table, ends: Ends) -> None:
    add_threads(table, 11)
    assert threaded_usage(ends, recorded=False) == Usage(20, 7, 4096, None, None)


def test_disk_bytes_are_told_only_where_all_tasks_are_in_them(table: Table, ends: Ends) -> None:
    add_threads(table, 11)
    table.lost(at(150))
    assert threaded_usage(ends) == Usage(20, 8, 4096, None, None)


def test_disk_bytes_are_not_told_where_a_record_may_be_lost(table: Table, ends: Ends) -> None:
    add_threads(table, 11)
    ends.lost(at(150))
    assert threaded_usage(ends) == Usage(20, 8, 4096, None, None)


def test_disk_bytes_of_who_lived_before_us_are_not_whole(table: Table, ends: Ends, tmp_path: Path) -> None:
    proc = FakeProc(tmp_path / "proc")
    proc.add(10, threads=2)
    table.scan(Reader(Wants(), proc=str(proc.root)))
    assert threaded_usage(ends) == Usage(20, 8, 4096, None, None)


def test_the_record_knows_names_and_ids_better(table: Table, ends: Ends) -> None:
    process = add_threads(table)
    ends.records.add([record(10, comm=b"renamed", uid=1000, gid=100)], at(200))
    found = ends.task_ended(10, 10, 0, at(200))
    assert found is not None
    assert (found.process.comm, found.process.image) == (b"renamed", process.image)
    creds = found.process.creds
    assert creds is not None
    # Effective ids are not in it.
    assert (creds.uid, creds.euid, creds.gid, creds.egid) == (1000, None, 100, None)
    # Who holds the process as it was has it so.
    assert process.comm == b"prog"
    assert process.creds is not None
    assert process.creds.uid == 5


def test_a_new_name_leaves_the_ids_as_they_are_known(table: Table, ends: Ends) -> None:
    process = add_threads(table)
    ends.records.add([record(10, comm=b"renamed")], at(200))
    found = ends.task_ended(10, 10, 0, at(200))
    assert found is not None
    assert found.process.comm == b"renamed"
    assert found.process.creds is process.creds


def test_a_threads_name_and_ids_are_not_the_processs(table: Table, ends: Ends) -> None:
    process = add_threads(table, 11)
    ends.records.add([record(10, flags=0), record(11, tgid=10, comm=b"worker-1", uid=1000)], at(200))
    assert ends.task_ended(10, 10, 0, at(200)) is None
    found = ends.task_ended(10, 11, 0, at(200))
    assert found is not None
    assert found.process is process


@pytest.mark.parametrize(
    ("flags", "comm", "is_kept"),
    [
        (FORKED_ONLY, b"prog", True),
        (0, b"prog", False),  # there was an exec that nobody told of
        (FORKED_ONLY, b"other", False),  # a copy of another one (CLONE_PARENT)
    ],
)
def test_an_image_is_inherited_only_where_the_record_agrees(
    table: Table, ends: Ends, flags: int, comm: bytes, is_kept: bool
) -> None:
    add_threads(table)
    child = add(table, 20, parent=10)
    ends.records.add([record(20, flags=LAST | flags, comm=comm)], at(200))
    found = ends.task_ended(20, 20, 0, at(200))
    assert found is not None
    assert found.process.comm == comm
    assert (found.process.image.exe, found.process.image.argv) == (
        (child.image.exe, child.image.argv) if is_kept else (None, None)
    )
    assert child.image.exe == b"/usr/bin/prog"


def test_a_stranger_is_made_up_from_its_record(ends: Ends) -> None:
    ends.records.add([record(50, CODE_3, comm=b"lost", uid=1000, gid=100, ppid=7)], at(200))
    found = ends.task_ended(50, 50, CODE_3, at(200))
    assert found is not None
    process = found.process
    assert (process.pid, process.comm, process.ppid, process.process_id) == (50, b"lost", 7, None)
    assert process.creds is not None
    assert (process.creds.uid, process.creds.gid) == (1000, 100)
    assert (found.wait_status, found.source, found.usage) == (CODE_3, TASKSTATS, ALONE)


def test_only_the_last_of_a_strangers_tasks_ends_it(ends: Ends) -> None:
    ends.records.add([record(50, flags=0), record(51, tgid=50, comm=b"worker-1", uid=1000)], at(200))
    assert ends.task_ended(50, 50, 0, at(200)) is None
    found = ends.task_ended(50, 51, 0, at(200))
    assert found is not None
    # Its name is the thread's alone; its ids are all that is known of the process's.
    assert (found.process.pid, found.process.comm, found.process.ppid) == (50, None, 1)
    assert found.process.creds is not None
    assert (found.process.creds.uid, found.process.creds.euid) == (1000, None)


def two_lives(table: Table) -> tuple[Process, Process]:
    """Two lives of one PID, of which the second began before the EXIT of the first."""
    add(table, 10, tick=100)
    first = table.exec(10, reading(start=100, comm=b"first"), at(100))
    add(table, 10, tick=200)
    return first, table.exec(10, reading(start=200, comm=b"second"), at(200))


@pytest.mark.parametrize("is_in_order", [True, False])
def test_lives_of_one_pid_are_told_apart(table: Table, ends: Ends, is_in_order: bool) -> None:
    first, second = two_lives(table)
    ends.records.add([record(10, CODE_3, comm=b"first"), record(10, CODE_7, comm=b"second")], at(201))
    statuses = [CODE_3, CODE_7] if is_in_order else [CODE_7, CODE_3]
    found = {}
    for status in statuses:
        end = ends.task_ended(10, 10, status, at(201))
        assert end is not None
        assert end.wait_status == status
        found[status] = end.process
    assert (found[CODE_3], found[CODE_7]) == (first, second)
    assert table.get(10) is None


def test_a_thread_of_the_life_before_is_not_one_of_the_next(table: Table, ends: Ends) -> None:
    first = add_threads(table, 11)
    second = add(table, 10, tick=200)
    assert ends.task_ended(10, 10, CODE_3, at(200)) is None
    assert ends.task_ended(10, 11, CODE_3, at(200)) == End(first, CODE_3, CONNECTOR)
    assert table.get(10) is second


def test_a_record_from_before_the_fork_is_of_an_earlier_life(table: Table, ends: Ends) -> None:
    ends.records.add([record(10, comm=b"earlier")], at(150))
    process = add(table, 10, tick=200)
    assert ends.task_ended(10, 10, 0, at(201)) == End(process, 0, CONNECTOR)
    assert ends.records.given_up == 1
    (unclaimed,) = ends.unclaimed(at(1))
    assert (unclaimed.process.comm, unclaimed.wait_status) == (b"earlier", 0)
    assert ends.unclaimed(at(300)) == []


def test_who_vanished_ended_as_the_record_says(table: Table, ends: Ends) -> None:
    process = add_threads(table)
    ends.records.add([record(10, CODE_3)], at(200))
    assert ends.vanished(process) == End(process, CODE_3, TASKSTATS, ALONE)
    assert ends.unclaimed(at(300)) == []


def test_of_who_vanished_with_threads_the_last_record_has_the_sum(table: Table, ends: Ends) -> None:
    process = add_threads(table, 11)
    ends.records.add([record(10, flags=0), record(11, tgid=10, cpu_ns=4_000, group_cpu_ns=9_000)], at(200))
    # What they read and wrote is in the records of each.
    assert ends.vanished(process).usage == Usage(20, 9, 4096, None, None)


def test_who_vanished_without_a_record_ended_somehow(table: Table, ends: Ends) -> None:
    process = add_threads(table, 11)
    ends.records.add([record(10, CODE_3, flags=0), record(12, CODE_3)], at(200))
    assert ends.vanished(process) == End(process, None, None)


def test_who_vanished_amid_a_death_that_the_connector_told_of(table: Table, ends: Ends) -> None:
    process = add_threads(table, 11)
    assert ends.task_ended(10, 11, SIGKILL, at(200)) is None
    assert ends.vanished(process) == End(process, SIGKILL, CONNECTOR)


def test_who_vanished_has_no_record_of_an_earlier_life(table: Table, ends: Ends) -> None:
    ends.records.add([record(10, CODE_3)], at(50))
    process = add_threads(table)
    assert ends.vanished(process) == End(process, None, None)


def test_who_vanished_after_its_last_task_was_told_of(table: Table, ends: Ends) -> None:
    process = add_threads(table, 11)
    ends.records.add([record(10, CODE_3)], at(200))
    assert ends.task_ended(10, 10, CODE_3, at(200)) is None  # thread 11's EXIT was lost
    found = ends.vanished(process)
    assert (found.process, found.wait_status, found.source) == (process, CODE_3, TASKSTATS)


def test_who_vanished_amid_an_exit_of_all(table: Table, ends: Ends) -> None:
    process = add_threads(table, 11, 12)
    ends.records.add([record(10, CODE_7, flags=SIGNALED), record(11, 0, tgid=10)], at(200))
    assert ends.task_ended(10, 10, CODE_7, at(200)) is None
    assert ends.task_ended(10, 11, 0, at(200)) is None  # thread 12's EXIT was lost
    assert ends.vanished(process).wait_status == CODE_7


def test_the_last_record_of_who_vanished_may_be_of_a_thread_nobody_knew(table: Table, ends: Ends) -> None:
    process = add_threads(table)
    ends.records.add([record(10, flags=0), record(11, CODE_3, tgid=10)], at(200))
    found = ends.vanished(process)
    assert (found.process, found.wait_status, found.source) == (process, CODE_3, TASKSTATS)
    assert ends.unclaimed(at(300)) == []


def test_unclaimed_are_last_records_from_before_a_time(ends: Ends) -> None:
    ends.records.add([record(50, CODE_3, comm=b"lost"), record(61, tgid=60, flags=0)], at(200))
    ends.records.add([record(70)], at(300))
    (found,) = ends.unclaimed(at(250))
    assert (found.process.pid, found.process.comm, found.wait_status) == (50, b"lost", CODE_3)
    assert (found.source, found.usage) == (TASKSTATS, ALONE)
    assert ends.records.given_up == 2
    assert ends.unclaimed(at(250)) == []
    assert len(ends.records) == 1


def test_what_was_taken_is_not_given_up(table: Table, ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting_module, "WAITING_LIMIT", 2)
    ends.records.add([record(99)], at(200))  # one that waits
    for _ in range(5):
        add_threads(table, 11)
        ends.records.add([record(10, flags=0)], at(200))
        assert ends.task_ended(10, 10, 0, at(200)) is None
        ends.records.add([record(11, tgid=10)], at(200))
        assert ends.task_ended(10, 11, 0, at(200)) is not None
    for pid in range(20, 30):
        add_threads(table, pid + 100, pid=pid)
        assert ends.task_ended(pid, pid, 0, at(200)) is None
        ends.records.add([record(pid + 100, tgid=pid)], at(200))
        assert ends.task_ended(pid, pid + 100, 0, at(200)) is not None
    assert ends.records.given_up == 0


def test_waiting_records_are_limited(table: Table, ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting_module, "WAITING_LIMIT", 2)
    process = add_threads(table)
    ends.records.add([record(tid) for tid in (10, 50, 51)], at(200))
    assert (len(ends.records), ends.records.given_up) == (2, 1)
    assert ends.task_ended(10, 10, 0, at(200)) == End(process, 0, CONNECTOR)
    found = ends.task_ended(51, 51, 0, at(200))
    assert found is not None
    assert found.source == TASKSTATS


# From here on the kernel rejects the EXITs of all tasks but leaders, and what is recorded has to do.


@pytest.fixture
def told_late(ends: Ends) -> Ends:
    ends.configure(follows_threads=False, has_all_tasks=True, now_ns=at(100))
    return ends


def of_thread(status: int = 0, *, flags: int = 0, tid: int = 11, group_cpu_ns: int | None = None) -> TaskEnd:
    return record(tid, status, tgid=10, flags=flags, comm=b"worker", group_cpu_ns=group_cpu_ns)


def late_end(ends: Ends, until_ns: float = math.inf) -> End:
    """The one end that can be told once all until then is worked off."""
    ends.ripen(until_ns)
    (end,) = ends.late
    ends.late.clear()
    return end


def test_a_leader_that_is_the_last_ends_the_process(table: Table, told_late: Ends) -> None:
    process = add_threads(table)
    told_late.records.add([record(10, CODE_3)], at(200))
    assert told_late.task_ended(10, 10, CODE_3, at(200)) == End(process, CODE_3, TASKSTATS, ALONE)
    assert (table.get(10), told_late.waiting) == (None, 0)


@pytest.mark.parametrize("is_recorded_before", [True, False])
def test_the_end_waits_for_leader_and_last(table: Table, told_late: Ends, is_recorded_before: bool) -> None:
    process = add_threads(table)
    others = [of_thread(CODE_3, flags=LAST, group_cpu_ns=9_000)]
    told_late.records.add([record(10, flags=0), *(others if is_recorded_before else [])], at(200))
    told_late.ripen(math.inf)
    assert told_late.task_ended(10, 10, 0, at(200)) is None
    assert (table.get(10), told_late.waiting) == (process, 1)
    if not is_recorded_before:
        told_late.ripen(math.inf)
        assert not told_late.late
        told_late.records.add(others, at(201))
    end = late_end(told_late)
    assert (end.process, end.wait_status, end.source, end.has_exit) == (process, CODE_3, TASKSTATS, True)
    assert end.usage == Usage(20, 9, 4096, 200, 2000)
    # As long as the last record says, since it was forked.
    assert process.forked_ns is not None
    assert end.ended_ns == process.forked_ns + 20_000
    assert (table.get(10), told_late.waiting, len(told_late.records)) == (None, 0, 0)


def test_an_end_is_not_told_before_what_came_before_it(table: Table, told_late: Ends) -> None:
    process = add_threads(table)
    assert process.forked_ns is not None
    ended_ns = process.forked_ns + 20_000
    told_late.records.add([record(10, flags=0), of_thread(flags=LAST)], at(200))
    assert told_late.task_ended(10, 10, 0, at(100)) is None
    told_late.ripen(ended_ns - 1)
    assert (told_late.late, told_late.is_due) == ([], True)
    assert late_end(told_late, ended_ns).process is process
    assert not told_late.is_due


@pytest.mark.parametrize(
    ("leader", "others", "last", "expected"),
    [
        ((CODE_7, SIGNALED), [], (0, 0), CODE_7),  # exit_group(7), and the last one was just ending by itself
        ((0, 0), [(CODE_7, SIGNALED)], (0, 0), CODE_7),
        ((SIGKILL, SIGNALED), [(SIGKILL, SIGNALED)], (SIGKILL, SIGNALED), SIGKILL),
        ((0, 0), [(CODE_7, 0)], (CODE_3, 0), CODE_3),  # each by itself: the last one's
        ((CODE_3, 0), [], (0, 0), CODE_3),  # within a moment
    ],
)
def test_whose_status_it_is_where_the_last_is_told_late(
    table: Table,
    told_late: Ends,
    leader: tuple[int, int],
    others: list[tuple[int, int]],
    last: tuple[int, int],
    expected: int,
) -> None:
    add_threads(table)
    told_late.records.add([of_thread(status, flags=flags, tid=12) for status, flags in others], at(100))
    told_late.records.add([record(10, leader[0], flags=leader[1])], at(100))
    assert told_late.task_ended(10, 10, leader[0], at(100)) is None
    told_late.records.add([of_thread(last[0], flags=LAST | last[1])], at(100))
    assert late_end(told_late).wait_status == expected


def test_what_a_thread_was_killed_with_is_the_leader_s_end_too(table: Table, told_late: Ends) -> None:
    """The leader was about to end by itself, and was the last."""
    add_threads(table)
    told_late.records.add([of_thread(CODE_7, flags=SIGNALED), record(10, 0, group_cpu_ns=9_000)], at(200))
    end = told_late.task_ended(10, 10, 0, at(200))
    assert end is not None
    assert (end.wait_status, end.source) == (CODE_7, TASKSTATS)
    assert (end.usage.cpu_usec, end.usage.io_read_bytes) == (9, 200)


def test_where_records_are_rejected_what_was_read_is_not_known(table: Table, told_late: Ends) -> None:
    told_late.configure(follows_threads=False, has_all_tasks=False, now_ns=at(100))
    add_threads(table)
    told_late.records.add([record(10, flags=0), of_thread(flags=LAST, group_cpu_ns=9_000)], at(200))
    assert told_late.task_ended(10, 10, 0, at(200)) is None
    assert late_end(told_late).usage == Usage(20, 9, 4096, None, None)


def test_an_exec_by_a_thread_takes_the_leader_s_place(table: Table, told_late: Ends) -> None:
    add_threads(table)
    told_late.records.add([record(10, flags=SIGNALED), record(10, CODE_3, group_cpu_ns=9_000)], at(200))
    assert told_late.task_ended(10, 10, 0, at(200)) is None
    assert told_late.waiting == 1
    told_late.execed(10, at(201))
    process = table.exec(10, reading(start=100), at(201))
    assert (told_late.waiting, process.threads) == (0, None)
    end = told_late.task_ended(10, 10, CODE_3, at(300))
    assert end is not None
    assert (end.process, end.wait_status, end.source) == (process, CODE_3, TASKSTATS)


def test_the_leader_that_an_exec_ended_may_go_by_another_id(table: Table, told_late: Ends) -> None:
    """Then no EXIT says what its record is of: it must not be taken for the process's."""
    process = add_threads(table)
    told_late.records.add([record(10, flags=SIGNALED)], at(200))
    assert told_late.task_ended(10, 11, 0, at(200)) is None
    told_late.execed(10, at(201))
    process = table.exec(10, reading(start=100), at(201))
    told_late.records.add([record(10, 0)], at(300))
    assert told_late.task_ended(10, 10, 0, at(300)) == End(process, 0, TASKSTATS, ALONE)


def test_a_pid_that_is_given_away_ends_who_had_it(table: Table, told_late: Ends) -> None:
    first = add_threads(table)
    told_late.records.add([record(10, flags=0), of_thread(CODE_3, flags=LAST)], at(150))
    assert told_late.task_ended(10, 10, 0, at(150)) is None
    second = add(table, 10, tick=200)
    told_late.given_away(first)
    (end,) = told_late.late
    assert (end.process, end.wait_status, end.has_exit) == (first, CODE_3, True)
    assert (table.lives(10, 10), told_late.waiting) == ([second], 0)
    told_late.records.add([record(10, CODE_7)], at(300))
    last = told_late.task_ended(10, 10, CODE_7, at(300))
    assert last is not None
    assert (last.process.forked_ns, last.wait_status) == (second.forked_ns, CODE_7)


def test_whose_last_record_is_lost_ends_when_its_pid_is_given_away(table: Table, told_late: Ends) -> None:
    first = add_threads(table)
    told_late.records.add([record(10, CODE_3, flags=0)], at(150))
    assert told_late.task_ended(10, 10, CODE_3, at(150)) is None
    table.lost(at(160))
    add(table, 10, tick=200)
    told_late.given_away(first)
    (end,) = told_late.late
    # The others may have ended in another way.
    assert (end.process, end.wait_status, end.source) == (first, None, None)


def test_a_later_life_s_threads_are_not_the_former_one_s(table: Table, told_late: Ends) -> None:
    first = add_threads(table)
    second = add(table, 10, tick=200)
    killed = of_thread(SIGKILL, flags=SIGNALED)
    told_late.records.add(
        [record(10, CODE_3, flags=LAST), killed, record(10, SIGKILL, flags=LAST | SIGNALED)], at(250)
    )
    end = told_late.task_ended(10, 10, CODE_3, at(150))
    assert end is not None
    assert (end.process, end.wait_status) == (first, CODE_3)
    end = told_late.task_ended(10, 10, SIGKILL, at(250))
    assert end is not None
    assert (end.process.forked_ns, end.wait_status) == (second.forked_ns, SIGKILL)


def test_a_straggler_is_not_the_next_life_s(table: Table, told_late: Ends) -> None:
    add_threads(table)
    told_late.records.add([record(10)], at(150))
    assert told_late.task_ended(10, 10, 0, at(150)) is not None
    told_late.records.add([of_thread(SIGKILL, flags=SIGNALED)], at(150))
    process = add(table, 10, tick=200)
    told_late.records.add([record(10)], at(250))
    end = told_late.task_ended(10, 10, 0, at(250))
    assert end is not None
    assert (end.process.forked_ns, end.wait_status) == (process.forked_ns, 0)
    assert told_late.records.given_up == 1


def test_a_code_from_before_an_exec_is_not_the_process_s(table: Table, told_late: Ends) -> None:
    process = add_threads(table)
    told_late.records.add([of_thread(CODE_7)], at(100))
    told_late.ripen(math.inf)
    told_late.execed(10, at(101))
    process = table.exec(10, reading(start=100), at(101))
    told_late.records.add([record(10)], at(101))
    end = told_late.task_ended(10, 10, 0, at(101))
    assert end is not None
    assert (end.process.execed_ns, end.wait_status) == (process.execed_ns, 0)


@pytest.mark.parametrize(
    ("state", "start", "is_over"),
    [(None, 0, True), (b"Z", 100, True), (b"R", 300, True), (b"S", 100, False), (b"Z threaded", 100, False)],
)
def test_without_the_leaders_record_proc_says_who_goes_on(
    table: Table, state: bytes | None, start: int, is_over: bool
) -> None:
    threads = 2 if state == b"Z threaded" else 1
    stat = None if state is None else Stat(b"prog", state[:1], 1, 1, 0, threads, start)
    ends = Ends(table, lambda _pid: stat)
    ends.configure(follows_threads=False, has_all_tasks=True, now_ns=at(100))
    process = add_threads(table)
    found = ends.task_ended(10, 10, CODE_3, at(200))
    if is_over:
        assert found == End(process, CODE_3, CONNECTOR)
    else:
        assert found is None
        assert ends.waiting == 1


def test_who_vanished_waits_no_more(table: Table, told_late: Ends) -> None:
    process = add_threads(table)
    told_late.records.add([record(10, flags=0)], at(200))
    assert told_late.task_ended(10, 10, 0, at(200)) is None
    told_late.records.add([of_thread(CODE_3, flags=LAST)], at(200))
    table.remove(process)
    end = told_late.vanished(process)
    assert (end.process, end.wait_status, end.source) == (process, CODE_3, TASKSTATS)
    told_late.ripen(math.inf)
    assert (told_late.late, told_late.waiting) == ([], 0)


def test_unclaimed_are_last_records_of_threads_too(told_late: Ends) -> None:
    told_late.records.add([of_thread(CODE_3, flags=LAST)], at(200))
    (found,) = told_late.unclaimed(at(250))
    assert (found.process.pid, found.wait_status, found.source) == (10, CODE_3, TASKSTATS)
    assert told_late.unclaimed(at(250)) == []


def test_what_threads_leave_takes_no_room(table: Table, told_late: Ends) -> None:
    """However many end with a status of their own while their process lives."""
    process = add_threads(table)
    for n in range(100):
        told_late.records.add([of_thread(CODE_7, tid=1000 + n)], at(200))
        told_late.ripen(math.inf)
    assert not told_late.records.others
    assert process.tally is not None
    assert process.tally.cpu_ns == 100 * 4_000
    assert told_late.records.given_up == 0


def test_records_of_threads_of_nobody_are_limited(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting_module, "WAITING_LIMIT", 2)
    ends = Ends(ends._table)
    ends.configure(follows_threads=False, has_all_tasks=True, now_ns=at(100))
    ends.records.add([record(tid, tgid=tid - 1, flags=0) for tid in (51, 61, 71)], at(200))
    assert (len(ends.records.others.pids()), ends.records.given_up) == (2, 1)
    for n in range(2 * LIVES_LIMIT):
        ends.records.add([record(61, CODE_3, tgid=60)], at(200 + n))
    assert ends.records.given_up > LIVES_LIMIT


def test_leaders_that_ended_before_are_known_by_what_was_read(table: Table, told_late: Ends) -> None:
    """Also after a lost EXEC, by which another task took the leader's place."""
    process = add_threads(table)
    told_late.met(process, {11, 12})
    assert (process.threads, told_late.waiting) == (set(), 0)
    told_late.records.add([of_thread(CODE_3, flags=LAST)], at(200))
    end = late_end(told_late)
    assert (end.process, end.wait_status, end.has_exit) == (process, CODE_3, False)
    process = add_threads(table)
    told_late.met(process, {11})
    told_late.met(process, {10, 11})
    assert process.threads is None
    told_late.records.add([record(10)], at(300))
    assert told_late.task_ended(10, 10, 0, at(300)) is not None


def switched_on(ends: Ends) -> None:
    ends.configure(follows_threads=True, has_all_tasks=True, now_ns=at(150))


def test_threads_are_followed_from_the_first_event_after_it_on(table: Table, told_late: Ends) -> None:
    """What is recorded before is of EXITs that were rejected, it may be."""
    process = add_threads(table)
    switched_on(told_late)
    told_late.records.add([record(10, flags=0), of_thread(CODE_3, flags=LAST)], at(160))
    told_late.ripen(at(150))
    assert not told_late.follows_threads
    assert told_late.task_ended(10, 10, 0, at(149)) is None
    # That EXIT was told as a thread's.
    assert told_late.waiting == 0
    end = late_end(told_late, at(151))
    assert (end.process, end.wait_status, end.has_exit) == (process, CODE_3, False)
    assert told_late.follows_threads
    process = add_threads(table, 11)
    assert told_late.task_ended(10, 10, 0, at(200)) is None
    assert told_late.task_ended(10, 11, CODE_3, at(200)) == End(process, CODE_3, CONNECTOR)


def test_the_last_exit_is_the_end_where_it_comes(table: Table, told_late: Ends) -> None:
    process = add_threads(table)
    told_late.records.add([record(10, flags=0)], at(149))
    assert told_late.task_ended(10, 10, 0, at(149)) is None
    switched_on(told_late)
    told_late.ripen(math.inf)
    assert told_late.waiting == 1
    told_late.records.add([of_thread(0, tid=12), of_thread(CODE_3, flags=LAST)], at(200))
    assert told_late.task_ended(10, 12, 0, at(200)) is None
    end = told_late.task_ended(10, 11, CODE_3, at(200))
    assert end is not None
    assert (end.process, end.wait_status, end.source) == (process, CODE_3, TASKSTATS)
    told_late.ripen(math.inf)
    assert (told_late.late, told_late.waiting, table.get(10)) == ([], 0, None)


def test_whose_leader_had_ended_when_threads_were_followed_no_more(table: Table, ends: Ends) -> None:
    process = add_threads(table, 11)
    stays = add_threads(table, 21, pid=20)
    ends.records.add([record(10, flags=0)], at(149))
    assert ends.task_ended(10, 10, 0, at(149)) is None
    ends.configure(follows_threads=False, has_all_tasks=True, now_ns=at(150))
    assert (process.threads, stays.threads) == (set(), None)
    ends.records.add([of_thread(CODE_3, flags=LAST)], at(200))
    end = late_end(ends)
    assert (end.process, end.wait_status, end.has_exit) == (process, CODE_3, False)


def test_records_that_wait_for_an_exit_are_used_without_it(table: Table, ends: Ends) -> None:
    process = add_threads(table, 11)
    ends.records.add([record(10, flags=0), of_thread(CODE_3, flags=LAST)], at(200))
    ends.configure(follows_threads=False, has_all_tasks=True, now_ns=at(150))
    assert ends.task_ended(10, 11, CODE_3, at(200)) is None  # it had been on its way
    assert ends.task_ended(10, 10, 0, at(200)) is None
    end = late_end(ends)
    assert (end.process, end.wait_status) == (process, CODE_3)


def slow_fork(table: Table, stat: Stat | None = None) -> Ends:
    """The CPU was taken away for 60 ms between the making of a task and its FORK; it ended after 10 more."""
    ends = Ends(table, lambda _pid: stat)
    process = add(table, 10)
    assert process.forked_ns is not None
    slow = record(10, CODE_3)._replace(process_elapsed_usec=70_000)
    ends.records.add([slow], process.forked_ns + 10_000_000)
    return ends


def test_a_fork_may_take_long(table: Table) -> None:
    ends = slow_fork(table)
    end = ends.task_ended(10, 10, CODE_3, at(100) + 10_000_000)
    assert end is not None
    assert (end.process.process_id, end.wait_status) == ("10-100", CODE_3)
    assert table.get(10) is None


def test_after_a_loss_it_may_be_the_end_of_who_was_there_before(table: Table) -> None:
    ends = slow_fork(table, Stat(b"lives", b"S", 1, 1, 0, 1, 100))
    table.lost(at(100))
    assert ends.task_ended(10, 10, CODE_3, at(100) + 10_000_000) is None
    assert table.get(10) is not None


def test_after_a_loss_whoever_is_gone_has_ended(table: Table) -> None:
    ends = slow_fork(table)
    table.lost(at(100))
    assert ends.task_ended(10, 10, CODE_3, at(100) + 10_000_000) is not None
    assert table.get(10) is None
