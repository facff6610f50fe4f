# SPDX-License-Identifier: MIT
"""The table: lives, threads, parents, and readings that are not one's own."""

from __future__ import annotations

import dataclasses
import gc
from pathlib import Path

import pytest

from procwatchd.kernel.clock import NS_PER_TICK, Clock
from procwatchd.process import table as table_module
from procwatchd.process.model import ANCESTOR_LIMIT, Context, Process
from procwatchd.process.procfs import Ids, NotRead, Reader, Reading, Stat, Wants
from procwatchd.process.table import Table
from procwatchd.process.users import Users
from tests.unit.fakeproc import FakeProc


class StillClock(Clock):
    """A clock without suspends: a tick is its number."""

    def refresh(self) -> None:
        self.boottime_offset_ns = 0


def at(tick: int) -> int:
    return tick * NS_PER_TICK + 1


def reading(
    *, start: int, argv: bytes | None = b"prog\0", comm: bytes = b"prog", ppid: int = 1, threads: int = 1
) -> Reading:
    stat = Stat(comm, b"S", ppid, 1, 0, threads, start)
    size = len(argv or b"")
    exe = None if argv is None else b"/usr/bin/" + comm
    return Reading(stat, exe, argv, size, b"", Context(cwd=b"/"), 0, 0, Ids(5, 5, 5, 5))


def ended(table: Table, tgid: int, tid: int, status: int = 0) -> Process | None:
    found = table.task_ended(tgid, tid, status)
    return None if found is None else found[0]


@pytest.fixture
def table(tmp_path: Path) -> Table:
    passwd = tmp_path / "passwd"
    passwd.write_text("root:x:0:0::/:/bin/sh\n")
    return Table(StillClock(), Users(lambda _uid: None, passwd_path=str(passwd)))


def add(table: Table, pid: int, *, parent: int = 1, tick: int = 100) -> Process:
    return table.fork(parent, pid, at(tick))


def test_a_child_inherits_what_its_parent_was(table: Table) -> None:
    add(table, 10)
    parent = table.exec(10, reading(start=100, argv=b"cron\0-f\0", comm=b"cron"), at(100))
    child = add(table, 11, parent=10, tick=200)
    assert (child.image, child.comm, child.context) == (parent.image, b"cron", parent.context)
    assert child.inherited
    assert child.parent is parent
    assert (child.ppid, child.process_id) == (10, "11-200")


def test_the_parent_stays_as_it_was(table: Table) -> None:
    add(table, 10)
    table.exec(10, reading(start=100, comm=b"bash"), at(100))
    child = add(table, 11, parent=10)
    table.exec(10, reading(start=100, comm=b"sleep"), at(101))
    assert child.parent is not None
    assert child.parent.comm == b"bash"
    assert ended(table, 10, 10) is not None
    assert [p.comm for p in child.ancestors()] == [b"bash"]


def test_exec_is_the_same_life(table: Table) -> None:
    add(table, 10)
    first = table.exec(10, reading(start=100, argv=b"a\0"), at(100))
    second = table.exec(10, reading(start=100, argv=b"b\0"), at(150))
    assert first.process_id == second.process_id == "10-100"
    assert (second.image.argv, second.image.identity, second.inherited) == (b"b\0", "same", False)
    assert ended(table, 10, 10) is second


@pytest.mark.parametrize(
    ("forked", "execed", "start", "identity"),
    [
        (100, 100, 100, "same"),
        (100, 300, 100, "same"),
        (100, 100, 99, "same"),  # the start is taken a moment before FORK's time
        (100, 100, 101, "same"),  # the clocks' own noise
        (100, 300, 102, "same"),  # of a life whose beginning was not seen: see below
        (100, 300, 300, "reused"),
        (100, 100, 102, "reused"),
        (100, 300, 400, "reused"),
        (100, 300, 50, "unknown"),
    ],
)
def test_whose_reading_it_is(table: Table, forked: int, execed: int, start: int, identity: str) -> None:
    add(table, 10, tick=forked)
    process = table.exec(10, reading(start=start), at(execed))
    assert process.image.identity == identity
    assert (process.image.argv is not None) == (identity == "same")
    assert (process.comm is not None) == (identity == "same")


def test_a_reading_of_another_life_gives_nothing(table: Table) -> None:
    add(table, 10, tick=100)
    process = table.exec(10, reading(start=500, argv=b"secret\0", comm=b"other"), at(100))
    assert (process.image.argv, process.image.exe, process.comm) == (None, None, None)
    assert process.context.cwd is None
    assert process.process_id == "10-100"


def test_without_a_reading_it_is_gone(table: Table) -> None:
    add(table, 10)
    assert table.exec(10, NotRead.GONE, at(100)).image.identity == "gone"
    assert table.exec(10, reading(start=100, argv=None), at(100)).image.identity == "gone"


def test_what_is_of_the_next_image_is_not_taken(table: Table) -> None:
    add(table, 10)
    table.exec(10, reading(start=100, argv=b"env\0"), at(100))
    amid = dataclasses.replace(reading(start=100, argv=None), exe=b"/usr/bin/next")
    for unusable in (NotRead.EXECED_AGAIN, amid):
        process = table.exec(10, unusable, at(101))
        assert (process.image.identity, process.image.exe, process.comm) == ("unknown", None, None)


def test_a_stranger_is_known_from_its_reading(table: Table) -> None:
    process = table.exec(77, reading(start=50, ppid=3), at(60))
    assert (process.process_id, process.ppid, process.image.identity) == ("77-50", 3, "same")
    assert process.creds is not None
    assert process.creds.uid == 5
    assert table.exec(78, reading(start=99), at(60)).image.identity == "reused"


def test_ids_are_inherited_not_read_again(table: Table) -> None:
    parent = table.exec(10, reading(start=1), at(100))
    assert parent.creds is not None
    parent.creds = table.creds(Ids(1000, 1000, 1000, 1000))
    child = add(table, 11, parent=10)
    changed = table.exec(11, reading(start=100), at(100))
    assert changed.creds == child.creds == parent.creds


def test_the_end_of_a_process_is_the_end_of_its_last_task(table: Table) -> None:
    process = add(table, 10)
    table.thread_forked(10, 11)
    table.thread_forked(10, 12)
    assert ended(table, 10, 10) is None  # the leader first
    assert ended(table, 10, 12) is None
    assert ended(table, 10, 11) is process
    assert table.get(10) is None


def test_exec_by_a_thread_ends_the_others(table: Table) -> None:
    add(table, 10)
    table.thread_forked(10, 11)
    assert ended(table, 10, 10) is None
    process = table.exec(10, reading(start=100), at(101))
    assert ended(table, 10, 10) is process


def test_ends_of_unknown_tasks(table: Table) -> None:
    assert ended(table, 50, 51) is None
    stranger = ended(table, 50, 50)
    assert stranger is not None
    assert (stranger.pid, stranger.process_id, stranger.image.identity) == (50, None, "unknown")
    add(table, 10)
    assert ended(table, 10, 99) is None


def test_the_next_life_may_begin_before_the_last_one_has_ended(table: Table) -> None:
    first = table.exec(10, reading(start=90, comm=b"first"), at(95))
    second = add(table, 10, tick=100)
    assert table.get(10) is second
    first_end = ended(table, 10, 10)
    assert first_end is not None
    assert first_end.comm == first.comm == b"first"
    assert table.get(10) is second
    assert ended(table, 10, 10) is second


def test_after_a_loss_an_old_life_takes_no_end_from_a_new_one(table: Table) -> None:
    add(table, 10, tick=100)
    table.lost(at(150))
    second = add(table, 10, tick=200)
    assert ended(table, 10, 10) is second


def test_lives_that_share_pid_and_start_have_different_ids(table: Table) -> None:
    first = add(table, 10, tick=100)
    ended(table, 10, 10)
    second = add(table, 10, tick=100)
    third = add(table, 10, tick=100)
    assert [p.process_id for p in (first, second, third)] == ["10-100", "10-100.2", "10-100.3"]


def test_long_chains_of_the_ended_are_cut(table: Table) -> None:
    pid = 10
    add(table, pid)
    for n in range(1000):
        add(table, pid + n + 1, parent=pid + n)
        ended(table, pid + n, pid + n)
    last = table.get(pid + 1000)
    assert last is not None
    assert len(last.ancestors()) == ANCESTOR_LIMIT
    assert table.chains_cut > 0
    gc.collect()
    alive = sum(isinstance(thing, Process) for thing in gc.get_objects())
    assert alive < 4 * ANCESTOR_LIMIT


def test_a_chain_of_the_living_is_not_cut(table: Table) -> None:
    for n in range(200):
        add(table, 11 + n, parent=10 + n)
    assert table.chains_cut == 0
    last = table.get(210)
    assert last is not None
    assert len(last.ancestors()) == ANCESTOR_LIMIT


def test_long_arguments_of_all_together_are_limited(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_module, "LONG_ARGV_TOTAL_BYTES", 30_000)
    argv = b"x" * 20_000
    first = table.exec(10, reading(start=100, argv=argv), at(100))
    second = table.exec(11, reading(start=100, argv=argv), at(100))
    assert first.image.argv == argv
    assert second.image.argv == argv[:4096]
    assert (second.image.argv_tail, second.image.argv_bytes) == (argv[-4096:], 20_000)
    assert table.argv_cut == 1
    ended(table, 10, 10)
    del first
    assert table.exec(12, reading(start=100, argv=argv), at(100)).image.argv == argv


def test_scan(table: Table, tmp_path: Path) -> None:
    proc = FakeProc(tmp_path / "proc")
    proc.add(20, comm=b"sshd", ppid=1, start=50)
    proc.add(21, comm=b"bash", ppid=20, start=60, uid=1000, threads=3)
    proc.add(22, comm=b"dead", state=b"Z", exe=None, cmdline=b"", start=70)
    proc.add(23, comm=b"kthread", exe=None, cmdline=b"", start=2)
    table.scan(Reader(Wants(), proc=str(proc.root)))
    bash = table.get(21)
    assert bash is not None
    assert (bash.process_id, bash.threads) == ("21-60", {21, 22, 23})
    assert [p.comm for p in bash.ancestors()] == [b"sshd", b"systemd"]
    assert bash.creds is not None
    assert bash.creds.uid == 1000
    assert table.get(22) is None
    assert table.get(23) is not None


def test_a_fork_that_waited_while_the_scan_met_its_child(table: Table, tmp_path: Path) -> None:
    proc = FakeProc(tmp_path / "proc")
    proc.add(20, comm=b"child", ppid=1, start=100)
    proc.add(21, comm=b"later", ppid=1, start=300)
    table.scan(Reader(Wants(), proc=str(proc.root)))
    scanned = table.get(20)
    assert table.fork(1, 20, at(100)) is scanned
    earlier = table.fork(1, 21, at(200))  # an earlier life of that PID
    assert earlier.process_id == "21-200"


def test_the_status_of_a_threaded_process(table: Table) -> None:
    for leader_status, statuses, expected in (
        (47 << 8, [47 << 8, 0], 47 << 8),  # one thread was ending by itself when another called exit
        (0, [3 << 8], 3 << 8),  # the leader first
        (9, [9, 9], 9),
        (0, [0, 0], 0),
    ):
        add(table, 10)
        for tid in range(11, 11 + len(statuses)):
            table.thread_forked(10, tid)
        assert table.task_ended(10, 10, leader_status) is None
        found = None
        for tid, status in enumerate(statuses, 11):
            assert found is None
            found = table.task_ended(10, tid, status)
        assert found is not None
        assert found[1] == expected


def test_a_life_that_began_unseen_has_nothing_of_the_one_before(table: Table) -> None:
    table.exec(10, reading(start=100, comm=b"bash"), at(100))
    add(table, 20, parent=10)
    table.exec(20, reading(start=100, comm=b"first"), at(100))
    second = table.exec(20, reading(start=200, comm=b"second", ppid=7), at(300))
    assert (second.process_id, second.ppid, second.parent, second.forked_ns) == ("20-200", 7, None, None)
    assert second.creds is not None
    assert second.creds.uid == 5


def test_a_status_is_not_left_to_the_next_life(table: Table) -> None:
    add(table, 10, tick=100)
    table.thread_forked(10, 11)
    assert table.task_ended(10, 11, 9) is None
    table.lost(at(150))  # and with it the end of that life
    add(table, 10, tick=200)
    table.thread_forked(10, 11)
    assert table.task_ended(10, 10, 0) is None
    found = table.task_ended(10, 11, 0)
    assert found is not None
    assert found[1] == 0


def test_a_leader_that_had_ended_before_the_scan_is_not_waited_for(table: Table, tmp_path: Path) -> None:
    proc = FakeProc(tmp_path / "proc")
    proc.add(20, comm=b"threads", state=b"Z", threads=2, start=50)
    table.scan(Reader(Wants(), proc=str(proc.root)))
    found = table.task_ended(20, 21, 3 << 8)
    assert found is not None
    assert (found[0].comm, found[1]) == (b"threads", 3 << 8)


def test_below_many_living_ancestors_a_fork_is_cheap(table: Table) -> None:
    for n in range(5000):
        add(table, 11 + n, parent=10 + n)
    parent = table.get(5010)
    assert parent is not None
    depths = []
    for n in range(5):
        child = add(table, 10_000 + n, parent=5010)
        depths.append(child.depth)
    # Whoever is over the limit looks up once, and then has none to look up from for a while.
    assert max(depths) <= 2 * ANCESTOR_LIMIT
    assert parent.depth <= 2 * ANCESTOR_LIMIT


def test_lives_have_different_ids_also_where_the_clock_went_on_between(table: Table) -> None:
    first = add(table, 10, tick=100)
    ended(table, 10, 10)
    add(table, 10, tick=101)  # it began in tick 100, its FORK came in 101
    second = table.exec(10, reading(start=100), at(101))
    ended(table, 10, 10)
    third = add(table, 10, tick=101)
    assert [p.process_id for p in (first, second, third)] == ["10-100", "10-100.2", "10-101.2"]
