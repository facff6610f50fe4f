# SPDX-License-Identifier: MIT
"""The table: lives, threads, parents, and readings that are not one's own."""

from __future__ import annotations

import dataclasses
import gc
import time
from pathlib import Path

import pytest

from procwatchd.kernel import wire
from procwatchd.kernel.clock import NS_PER_TICK, Clock
from procwatchd.process import table as table_module
from procwatchd.process.ends import Ends
from procwatchd.process.model import ANCESTOR_LIMIT, Context, Process
from procwatchd.process.procfs import Ids, NotRead, Reader, Reading, Stat, Wants
from procwatchd.process.table import Table
from procwatchd.process.users import Users
from tests.unit.fakeproc import FakeProc


class StillClock(Clock):
    """A clock without suspends: a tick is its number."""

    def refresh(self) -> None:
        self.realtime_offset_ns = 0


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
    """The process that ended with this task, as far as the connector alone tells."""
    end = Ends(table).task_ended(tgid, tid, status, 0)
    return None if end is None else end.process


@pytest.fixture
def table(tmp_path: Path) -> Table:
    passwd = tmp_path / "passwd"
    passwd.write_text("root:x:0:0::/:/bin/sh\n")
    return Table(StillClock(), Users(lambda _uid: None, passwd_path=str(passwd)))


class SleepyClock(StillClock):
    """A machine that slept for 1000 ticks at some time between its ticks 200 and 300."""

    def start_ticks(self, monotonic_ns: int) -> tuple[int, int]:
        tick = monotonic_ns // NS_PER_TICK
        return tick + (1000 if tick >= 300 else 0), tick + (1000 if tick > 200 else 0)


@pytest.fixture
def sleepy(table: Table) -> Table:
    return Table(SleepyClock(), table._users)


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


def test_ids_are_inherited_but_for_who_has_others(table: Table) -> None:
    """A child that was made in its parent's name (CLONE_PARENT) is a copy of somebody else."""
    parent = table.exec(10, reading(start=1), at(100))
    parent.creds = table.creds(Ids(1000, 1000, 1000, 1000))
    child = add(table, 11, parent=10)
    assert child.creds == parent.creds
    unread = dataclasses.replace(reading(start=100), ids=None)
    assert table.exec(11, unread, at(100)).creds == parent.creds
    assert table.exec(11, reading(start=100), at(100)).creds == table.creds(Ids(5, 5, 5, 5))


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


def test_who_was_scanned_before_its_fork_has_the_tags_of_whose_child_it_was_born(
    table: Table, tmp_path: Path
) -> None:
    proc = FakeProc(tmp_path / "proc")
    proc.add(30, comm=b"child", ppid=1, start=100)
    proc.add(31, comm=b"grandchild", ppid=30, start=100)
    table.scan(Reader(Wants(), proc=str(proc.root)))
    child, grandchild = table.get(30), table.get(31)
    assert child is not None
    assert grandchild is not None
    grandchild.tags = ("own",)
    parent = add(table, 20, parent=1, tick=90)
    table.tag(parent, ["ssh", "night"])
    table.fork(20, 30, at(100))
    table.fork(30, 31, at(100))
    assert child.parent is parent
    assert [each.tags for each in (child, grandchild)] == [("ssh", "night"), ("own", "ssh", "night")]


def test_what_is_told_after_a_scan_is_not_known_before(table: Table, tmp_path: Path) -> None:
    proc = FakeProc(tmp_path / "proc")
    for pid, start in ((20, 50), (21, 60), (22, 70), (23, 80), (24, 300)):
        proc.add(pid, comm=b"now", ppid=1, start=start)
    table.scan(Reader(Wants(), proc=str(proc.root)))
    table.rewind(
        events(
            (wire.EXEC, 20, 20),
            (wire.UID, 21, 21, 7, 7),
            (wire.COMM, 22, 22),
            (wire.FORK, 1, 1, 24, 24),
            (wire.FORK, 1, 1, 25, 23),  # of a thread
        )
    )
    execed, set_uid, renamed, older = (table.get(pid) for pid in (20, 21, 22, 23))
    assert None not in (execed, set_uid, renamed, older)
    assert execed is not None
    assert (execed.image.argv, execed.comm) == (None, None)
    assert set_uid is not None
    assert (set_uid.creds, set_uid.comm) == (table.unknown_creds, b"now")
    assert renamed is not None
    assert (renamed.comm, renamed.image.argv is None) == (None, False)
    assert older is not None
    assert older.comm == b"now"
    assert table.get(24) is None
    assert table.fork(20, 24, at(300)).image is execed.image


def test_what_was_told_before_it_was_scanned_is_known(table: Table, tmp_path: Path) -> None:
    proc = FakeProc(tmp_path / "proc")
    proc.add(20, comm=b"now", ppid=1, start=50)
    table.scan(Reader(Wants(), proc=str(proc.root)))
    later = events((wire.EXEC, 20, 20), timestamp_ns=time.monotonic_ns() + NS_PER_TICK)
    table.rewind(later)
    process = table.get(20)
    assert process is not None
    assert process.comm == b"now"


def events(*told: tuple[int, ...], timestamp_ns: int = at(300)) -> list[wire.RawEvent]:
    return wire.decode(b"".join(wire.encode_event(*one, timestamp_ns=timestamp_ns) for one in told))[0]


def test_a_life_that_began_unseen_has_nothing_of_the_one_before(table: Table) -> None:
    table.exec(10, reading(start=100, comm=b"bash"), at(100))
    add(table, 20, parent=10)
    table.exec(20, reading(start=100, comm=b"first"), at(100))
    second = table.exec(20, reading(start=200, comm=b"second", ppid=7), at(300))
    assert (second.process_id, second.ppid, second.parent, second.forked_ns) == ("20-200", 7, None, None)
    assert second.creds is not None
    assert second.creds.uid == 5


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


def test_a_life_that_ended_unseen_before_an_exec_is_not_forgotten(table: Table) -> None:
    add(table, 20, tick=100)
    first = table.exec(20, reading(start=100, comm=b"first"), at(100))
    table.lost(at(150))  # its EXIT, and the FORK of the next
    table.exec(20, reading(start=200, comm=b"second"), at(300))
    assert table.take_left(at(400)) == [first]
    assert table.take_left(at(400)) == []


def test_after_a_loss_a_life_whose_pid_was_reused_is_left(table: Table) -> None:
    first = add(table, 10, tick=100)
    second = add(table, 10, tick=110)
    assert table.take_left(at(105)) == []  # its EXIT may still come
    table.lost(at(150))
    assert table.take_left(at(160)) == [first]
    third = add(table, 10, tick=200)
    assert table.take_left(at(205)) == [second]
    table.verified(at(205))
    add(table, 10, tick=210)
    assert table.take_left(at(205)) == []
    assert ended(table, 10, 10) is third


def test_what_was_lost_stays_lost(table: Table) -> None:
    table.lost(at(300))
    table.lost(at(150))
    assert table.lost_ns == at(300)


def test_orphans_are_given_their_parents(table: Table) -> None:
    child = add(table, 20, parent=10, tick=200)
    assert child.parent is None
    parent = table.appeared(10, reading(start=100))
    grandchild = add(table, 21, parent=20, tick=210)
    child.tags, parent.tags = ("own",), ("ssh", "own")
    table.adopt_orphans()
    assert child.parent is parent
    assert (child.tags, grandchild.tags) == (("own", "ssh"), ("ssh", "own"))


class Walked(Table):
    """One that counts how often all of it is walked."""

    walks = 0

    def all(self) -> list[Process]:
        self.walks += 1
        return super().all()


def test_many_that_a_scan_met_before_their_forks_cost_no_walks(table: Table) -> None:
    walked = Walked(StillClock(), table._users)
    walked.appeared(1, reading(start=1, ppid=0))
    walked.appeared(9, reading(start=9)).tags = ("ssh",)
    for pid in range(100, 140, 2):
        walked.appeared(pid, reading(start=200, ppid=1))  # double-forked
        walked.appeared(pid + 1, reading(start=200, ppid=pid))
    for pid in range(100, 140, 2):
        add(walked, pid, parent=9, tick=200)
        add(walked, pid + 1, parent=pid, tick=200)
    assert walked.walks == 0
    assert {process.pid: process.tags for process in walked.living() if not process.tags} == {1: ()}


def test_many_orphans_cost_one_walk(table: Table) -> None:
    walked = Walked(StillClock(), table._users)
    for pid in range(100, 120):
        walked.appeared(pid, reading(start=200, ppid=pid - 1))
        add(walked, pid + 100, parent=pid, tick=210).parent.parent = None  # type: ignore[union-attr]
    walked.appeared(99, reading(start=100)).tags = ("ssh",)
    walked.adopt_orphans()
    assert walked.walks == 1
    assert {process.tags for process in walked.living()} == {("ssh",)}


def test_an_orphan_is_not_given_to_a_later_life_of_its_parents_pid(table: Table) -> None:
    child = add(table, 20, parent=10, tick=200)  # of a parent that nobody told of, and that ended unseen
    add(table, 10, tick=300)
    table.adopt_orphans()
    assert child.parent is None


def test_forks_before_and_after_a_suspend(sleepy: Table) -> None:
    assert [add(sleepy, tick, tick=tick).process_id for tick in (100, 200, 300, 400)] == [
        "100-100",
        "200-200",
        "300-1300",
        "400-1400",
    ]


@pytest.mark.parametrize("start", [250, 1250])
def test_of_a_fork_about_a_suspend_the_exec_s_reading_says_when_it_was(sleepy: Table, start: int) -> None:
    process = add(sleepy, 10, tick=250)
    assert (process.start_ticks, process.process_id) == (None, None)
    execed = sleepy.exec(10, reading(start=start), at(251))
    assert (execed.process_id, execed.exact, execed.image.identity) == (f"10-{start}", True, "same")
    assert execed.forked_ns == at(250)
    assert ended(sleepy, 10, 10) is execed


def test_of_a_fork_about_a_suspend_nothing_is_said_without_a_reading(sleepy: Table) -> None:
    process = add(sleepy, 10, tick=250)
    execed = sleepy.exec(10, NotRead.GONE, at(251))
    assert (execed.process_id, execed.image.identity) == (None, "gone")
    assert (execed.ppid, execed.forked_ns) == (process.ppid, at(250))


def test_lives_about_a_suspend_are_numbered_once_their_start_is_known(sleepy: Table) -> None:
    ids = []
    for _ in range(2):
        add(sleepy, 10, tick=250)
        ids.append(sleepy.exec(10, reading(start=1250), at(250)).process_id)
        ended(sleepy, 10, 10)
    assert ids == ["10-1250", "10-1250.2"]


@pytest.mark.parametrize(
    ("execed", "start", "identity"),
    [
        (250, 1250, "same"),  # a start after the event, by the clock before it slept
        (250, 1251, "same"),
        (250, 1252, "reused"),
        (150, 1150, "reused"),  # surely before: no sleep makes it that late
        (300, 1300, "same"),
        (300, 1302, "reused"),
    ],
)
def test_a_sleep_makes_no_other_life(sleepy: Table, execed: int, start: int, identity: str) -> None:
    process = sleepy.exec(10, reading(start=start), at(execed))
    assert process.image.identity == identity


@pytest.mark.parametrize("scanned", [249, 250, 600, 1250])
def test_who_was_scanned_before_its_fork_about_a_suspend(sleepy: Table, tmp_path: Path, scanned: int) -> None:
    proc = FakeProc(tmp_path / "proc")
    proc.add(20, start=scanned)
    sleepy.scan(Reader(Wants(), proc=str(proc.root)))
    process = sleepy.get(20)
    assert add(sleepy, 20, tick=250) is process
    assert process is not None
    assert process.process_id == f"20-{scanned}"


@pytest.mark.parametrize("scanned", [248, 1251])
def test_who_was_scanned_at_another_time_is_another(sleepy: Table, tmp_path: Path, scanned: int) -> None:
    proc = FakeProc(tmp_path / "proc")
    proc.add(20, start=scanned)
    sleepy.scan(Reader(Wants(), proc=str(proc.root)))
    assert add(sleepy, 20, tick=250).start_ticks is None


def test_tags_stay_with_a_life_and_go_to_its_children(table: Table) -> None:
    parent = add(table, 10)
    before = add(table, 11, parent=10)
    table.tag(parent.copy(), ("x", "y"))  # as of a thread's own change
    table.tag(parent, ("y", "z"))
    assert add(table, 12, parent=10).tags == ("x", "y", "z")
    assert before.tags == ()
    assert table.exec(10, reading(start=100), at(100)).tags == ("x", "y", "z")
    # Nothing of it goes to whoever has the PID next.
    table.remove(table.lives(10, 10)[0])
    later = add(table, 10, tick=200)
    table.tag(parent, ("late",))
    assert later.tags == ()
