# SPDX-License-Identifier: MIT
"""Ends of processes: from EXITs alone, and with the kernel's records."""

from __future__ import annotations

from pathlib import Path

import pytest

from procwatchd.kernel.taskstats import FORKED_ONLY, LAST, SIGNALED, TaskEnd
from procwatchd.process import ends as ends_module
from procwatchd.process.ends import CONNECTOR, TASKSTATS, End, Ends
from procwatchd.process.model import Process
from procwatchd.process.procfs import Reader, Wants
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
    monkeypatch.setattr(ends_module, "WAITING_LIMIT", 2)
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
    monkeypatch.setattr(ends_module, "WAITING_LIMIT", 2)
    process = add_threads(table)
    ends.records.add([record(tid) for tid in (10, 50, 51)], at(200))
    assert (len(ends.records), ends.records.given_up) == (2, 1)
    assert ends.task_ended(10, 10, 0, at(200)) == End(process, 0, CONNECTOR)
    found = ends.task_ended(51, 51, 0, at(200))
    assert found is not None
    assert found.source == TASKSTATS
