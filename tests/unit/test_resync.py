# SPDX-License-Identifier: MIT
"""After a loss: what /proc has and the table has not, and the other way round."""

from __future__ import annotations

import dataclasses
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from procwatchd.kernel.taskstats import FORKED_ONLY, LAST, TaskEnd
from procwatchd.process import resync as resync_module
from procwatchd.process.ends import CONNECTOR, TASKSTATS, End, Ends
from procwatchd.process.model import Process
from procwatchd.process.procfs import Ids, NotRead, Reader, Reading, Wants
from procwatchd.process.resync import INTERVAL_NS, SETTLE_NS, STEP, Found, Resync
from procwatchd.process.table import Table
from tests.unit.fakeproc import FakeProc
from tests.unit.test_clock import FakeTime
from tests.unit.test_ends import ALONE, record
from tests.unit.test_table import at, table

__all__ = ["table"]

CODE_3, CODE_7 = 3 << 8, 7 << 8
# When the table was filled, when the loss was, and when the resync after it begins.
SCANNED_NS, LOST_NS, BEGUN_NS = at(200), at(1000), at(2000)

MOST_STEPS = 100


class CountingReader(Reader):
    """A reader that counts."""

    reads = 0

    def read(self, pid: int) -> Reading | NotRead:
        self.reads += 1
        return super().read(pid)


class Scene:
    """A table, the /proc that it is compared with, and the clock."""

    def __init__(self, table: Table, directory: Path, time: FakeTime) -> None:
        self.proc = FakeProc(directory / "proc")
        self.table = table
        self.time = time
        self.ends = Ends(table)
        self.reader = CountingReader(Wants(), proc=str(self.proc.root))
        self.asked = 0
        self.resync = Resync(table, self.ends, self.reader, self.ask)

    def ask(self) -> None:
        self.asked += 1

    def scan(self) -> None:
        self.table.scan(self.reader)

    def look(self) -> None:
        """Lose something, and read /proc: what is sent meanwhile comes after this."""
        self.table.lost(LOST_NS)
        self.resync.request(SCANNED_NS, LOST_NS)
        self.read_on()

    def read_on(self) -> None:
        """Go on until nothing is left but to wait for events."""
        for _ in range(MOST_STEPS):
            if self.resync.is_waiting:
                return
            assert self.resync.step(self.time.now_ns) == []
            assert self.resync.is_running
        raise AssertionError("it does not come to wait")

    def finish(self) -> list[Found]:
        """Let all events be worked off; gives what is found then."""
        self.read_on()
        self.time.now_ns += SETTLE_NS
        found: list[Found] = []
        for _ in range(MOST_STEPS):
            some = self.resync.step(self.time.now_ns)
            if some is None:
                return found
            assert len(some) <= STEP
            found += some
        raise AssertionError("it does not come to its end")

    def run(self) -> list[Found]:
        self.look()
        return self.finish()

    @property
    def counts(self) -> tuple[int, int, int]:
        summary = self.resync.summary
        return summary.appeared, summary.vanished, summary.execed

    def get(self, pid: int) -> Process:
        process = self.table.get(pid)
        assert process is not None
        return process


def copy_of_1(pid: int, status: int) -> TaskEnd:
    """The record of one that PID 1 forked, and that exec'ed nothing."""
    return record(pid, status, flags=LAST | FORKED_ONLY, comm=b"systemd", uid=0, gid=0)


@pytest.fixture
def scene(table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    time = FakeTime(BEGUN_NS)
    monkeypatch.setattr(resync_module, "time", time)
    scene = Scene(table, tmp_path, time)
    yield scene
    # Whatever was found, the table is right now: another one finds nothing.
    time.now_ns += INTERVAL_NS
    scene.resync.request(0, 0)
    assert scene.run() == []
    assert scene.counts == (0, 0, 0)


def test_where_all_is_well_nothing_is_found(scene: Scene) -> None:
    scene.proc.add(20, threads=3)
    scene.proc.add(21, exe=None, cmdline=b"", comm=b"kthread")
    scene.proc.add(22, state=b"Z", exe=None, cmdline=b"")
    scene.scan()
    before = {pid: scene.get(pid) for pid in (1, 20, 21)}
    assert scene.run() == []
    assert scene.counts == (0, 0, 0)
    assert {pid: scene.get(pid) for pid in (1, 20, 21)} == before
    assert not scene.resync.is_running


def test_without_a_request_there_is_nothing_to_do(scene: Scene) -> None:
    scene.scan()
    scene.reader.reads = 0
    assert scene.resync.step(0) == []
    assert not scene.resync.is_running
    assert scene.reader.reads == 0


def test_it_knows_between_which_times_was_lost(scene: Scene) -> None:
    scene.scan()
    scene.resync.request(at(500), at(600))
    scene.resync.request(at(550), at(700))
    scene.resync.request(at(100), at(550))
    assert scene.resync.step(scene.time.now_ns) == []
    assert (scene.resync.summary.since_ns, scene.resync.summary.until_ns) == (at(100), at(700))
    assert scene.resync.begun_ns == BEGUN_NS
    scene.finish()


def test_who_appeared(scene: Scene) -> None:
    scene.scan()
    scene.proc.add(20, ppid=30, start=400, uid=1000)
    scene.proc.add(30, ppid=1, start=300, comm=b"parent", threads=2)
    parent, child = scene.run()
    assert (parent, child) == (scene.get(30), scene.get(20))
    assert scene.counts == (2, 0, 0)
    assert isinstance(child, Process)
    assert (child.process_id, child.image.argv, child.image.identity) == ("20-400", b"prog\0", "same")
    assert child.creds == scene.table.creds(Ids(1000, 1000, 1000, 1000))
    assert [p.comm for p in child.ancestors()] == [b"parent", b"systemd"]
    assert isinstance(parent, Process)
    assert parent.threads == {30, 31}


def test_the_orphans_of_who_appeared(scene: Scene) -> None:
    scene.scan()
    child = scene.table.fork(30, 31, at(500))
    for pid, start in ((30, 300), (31, 500)):
        scene.proc.add(pid, exe="/usr/bin/other", start=start, comm=b"parent" if pid == 30 else b"child")
    scene.run()
    assert [p.comm for p in scene.get(31).ancestors()] == [b"parent", b"systemd"]
    assert child.ppid == 30


def test_who_vanished(scene: Scene) -> None:
    for pid in (20, 21, 22):
        scene.proc.add(pid)
    scene.scan()
    unknown, recorded = scene.get(20), scene.get(21)
    scene.proc.remove(20)
    scene.proc.remove(21)
    scene.ends.records.add([record(21, CODE_3, uid=0, gid=0)], LOST_NS)
    found = {end.process: end for end in scene.run() if isinstance(end, End)}
    assert found == {unknown: End(unknown, None, None), recorded: End(recorded, CODE_3, TASKSTATS, ALONE)}
    assert scene.counts == (0, 2, 0)
    assert (scene.table.get(20), scene.table.get(21)) == (None, None)


def test_a_zombie_has_vanished(scene: Scene) -> None:
    scene.proc.add(20)
    scene.proc.add(21)
    scene.scan()
    scene.proc.remove(20)
    scene.proc.add(20, state=b"Z", exe=None, cmdline=b"")
    # The leader alone is no more.
    scene.proc.remove(21)
    scene.proc.add(21, state=b"Z", threads=2)
    (found,) = scene.run()
    assert isinstance(found, End)
    assert found.process.pid == 20


def test_who_is_another_program(scene: Scene) -> None:
    for pid in (20, 21, 22):
        scene.proc.add(pid)
    scene.scan()
    for pid, exe, cmdline in (
        (20, "/usr/bin/other", b"other\0-x\0"),
        (21, "/usr/bin/prog (deleted)", b"prog\0"),  # its file was replaced, no more
        (22, "/usr/bin/prog", b"prog: with a title of its own\0"),
    ):
        scene.proc.remove(pid)
        scene.proc.add(pid, exe=exe, cmdline=cmdline, comm=b"other" if pid == 20 else b"prog")
    before = scene.get(20)
    assert scene.run() == [scene.get(20)]
    assert scene.counts == (0, 0, 1)
    after = scene.get(20)
    assert (after.comm, after.image.exe, after.image.argv) == (b"other", b"/usr/bin/other", b"other\0-x\0")
    assert after.process_id == before.process_id == "20-100"
    assert before.image.exe == b"/usr/bin/prog"
    # That is no exec; but what it shows now may be all that is left of one.
    assert scene.get(22).image.argv == b"prog: with a title of its own\0"


def test_an_exec_in_a_copy_of_its_parent(scene: Scene) -> None:
    scene.proc.add(20)
    scene.scan()
    child = scene.table.fork(20, 30, at(500))
    scene.proc.add(30, exe="/usr/bin/other", start=500, ppid=20)
    assert scene.run() == [scene.get(30)]
    assert (child.inherited, scene.get(30).inherited) == (True, False)


def test_the_start_of_a_fork_may_be_a_tick_before_its_time(scene: Scene) -> None:
    scene.scan()
    for pid, start in ((20, 499), (21, 500), (22, 501)):
        scene.table.fork(1, pid, at(500))
        scene.proc.add(pid, exe="/usr/bin/other", start=start)
    assert len(scene.run()) == 3
    assert scene.counts == (0, 0, 3)
    assert [scene.get(pid).process_id for pid in (20, 21, 22)] == ["20-499", "21-500", "22-501"]


def test_what_had_not_been_read_is_no_exec(scene: Scene) -> None:
    scene.scan()
    scene.table.fork(1, 20, at(500))
    scene.table.exec(20, NotRead.TOO_LATE, at(501))
    scene.proc.add(20, start=500)
    assert scene.run() == []
    assert scene.counts == (0, 0, 0)
    assert (scene.get(20).image.exe, scene.get(20).comm) == (b"/usr/bin/prog", b"prog")


def test_ids_that_were_changed(scene: Scene) -> None:
    scene.proc.add(20)
    scene.scan()
    scene.proc.remove(20)
    scene.proc.add(20, uid=1000)
    assert scene.run() == []
    assert scene.get(20).creds == scene.table.creds(Ids(1000, 1000, 1000, 1000))


def test_threads_that_began_and_ended(scene: Scene) -> None:
    scene.proc.add(20)
    scene.proc.add(30, threads=2)
    scene.scan()
    for pid, threads in ((20, 2), (30, 1)):
        scene.proc.remove(pid)
        scene.proc.add(pid, threads=threads)
    assert scene.run() == []
    assert scene.ends.task_ended(20, 20, 0, at(3000)) is None
    assert scene.ends.task_ended(20, 21, 0, at(3000)) is not None
    assert scene.ends.task_ended(30, 30, 0, at(3000)) is not None
    scene.proc.remove(20)
    scene.proc.remove(30)


def test_threads_that_end_while_they_are_read(scene: Scene) -> None:
    scene.proc.add(20, state=b"Z", threads=2)
    scene.scan()
    (scene.proc.root / "20" / "task" / "20").rmdir()
    (scene.proc.root / "20" / "task" / "21").rmdir()
    (scene.proc.root / "20" / "task").rmdir()
    scene.look()
    scene.proc.remove(20)
    assert scene.ends.task_ended(20, 21, CODE_3, scene.time.now_ns) is not None
    assert scene.finish() == []


def test_a_pid_that_was_reused_in_the_loss(scene: Scene) -> None:
    scene.proc.add(20, comm=b"first")
    scene.scan()
    first = scene.get(20)
    scene.proc.remove(20)
    scene.proc.add(20, comm=b"second", start=500)
    scene.ends.records.add([record(20, CODE_3, comm=b"first", uid=0, gid=0)], LOST_NS)
    ended, appeared = scene.run()
    assert isinstance(ended, End)
    assert (ended.process, ended.wait_status) == (first, CODE_3)
    assert appeared is scene.get(20)
    assert (scene.get(20).comm, scene.get(20).process_id) == (b"second", "20-500")
    assert scene.counts == (1, 1, 0)


def test_a_pid_that_was_reused_and_whose_fork_was_not_lost(scene: Scene) -> None:
    scene.proc.add(20, comm=b"first")
    scene.scan()
    first = scene.get(20)
    scene.table.lost(LOST_NS)
    scene.table.fork(1, 20, at(1500))
    scene.proc.remove(20)
    scene.proc.add(20, comm=b"systemd", exe="/usr/lib/systemd/systemd", start=1500)
    assert scene.run() == [End(first, None, None)]
    assert scene.counts == (0, 1, 0)
    assert scene.get(20).process_id == "20-1500"


def test_each_of_two_lives_that_vanished_has_its_own_record(scene: Scene) -> None:
    scene.scan()
    first, second = (scene.table.fork(1, 20, at(tick)) for tick in (500, 501))
    # In one batch, that had gathered for a moment.
    scene.ends.records.add([copy_of_1(20, CODE_3), copy_of_1(20, CODE_7)], at(600))
    found = {end.process: end.wait_status for end in scene.run() if isinstance(end, End)}
    assert found == {first: CODE_3, second: CODE_7}
    assert scene.counts == (0, 2, 0)


def test_a_life_whose_pid_was_reused_ends_once(scene: Scene) -> None:
    """Its record came before the next life's FORK, its EXIT was lost, the next life's was not."""
    scene.scan()
    first = scene.table.fork(1, 20, at(500))
    scene.ends.records.add([copy_of_1(20, CODE_3)], at(510))
    scene.table.lost(LOST_NS)
    second = scene.table.fork(1, 20, at(1500))
    scene.ends.records.add([copy_of_1(20, CODE_7)], at(1510))
    end = scene.ends.task_ended(20, 20, CODE_7, at(1510))
    assert end is not None
    assert (end.process, end.wait_status) == (second, CODE_7)
    found = [(end.process, end.wait_status) for end in scene.run() if isinstance(end, End)]
    assert found == [(first, CODE_3)]


def test_after_a_resync_the_next_life_may_begin_before_the_last_one_has_ended(scene: Scene) -> None:
    """Who was seen alive after the loss: that one's EXIT will come."""
    scene.proc.add(20, comm=b"first")
    scene.scan()
    first = scene.get(20)
    assert scene.run() == []
    second = scene.table.fork(1, 20, at(4000))
    end = scene.ends.task_ended(20, 20, CODE_3, at(4000))
    assert end == End(first, CODE_3, CONNECTOR)
    assert scene.get(20) is second
    scene.proc.remove(20)
    scene.proc.add(20, comm=b"systemd", exe="/usr/lib/systemd/systemd", start=4000)


def test_events_that_come_meanwhile_are_not_doubled(scene: Scene) -> None:
    for pid in (20, 21, 22, 23):
        scene.proc.add(pid)
    scene.scan()
    begun = scene.time.now_ns
    # /proc is ahead of the events: one was forked, one has ended, one is another program, one has other ids.
    scene.proc.add(30, exe="/usr/lib/systemd/systemd", comm=b"systemd", start=1999)
    for pid in (21, 22, 23):
        scene.proc.remove(pid)
    scene.proc.add(22, exe="/usr/bin/other")
    scene.proc.add(23, uid=1000)
    scene.look()
    other = scene.reader.read(22)
    assert isinstance(other, Reading)
    forked = scene.table.fork(1, 30, at(1999))
    assert scene.ends.task_ended(21, 21, CODE_3, begun) is not None
    execed = scene.table.exec(22, other, begun - 1)
    changed = scene.table.changed(scene.get(23))
    changed.creds = scene.table.creds(Ids(1000, 1000, 1000, 1000))
    # And one begins and ends meanwhile.
    brief = scene.table.fork(1, 40, begun + 1)
    assert scene.ends.task_ended(40, 40, 0, begun + 2) == End(brief, 0, CONNECTOR)
    assert scene.finish() == []
    assert scene.counts == (0, 0, 0)
    assert scene.get(30) is forked
    assert scene.get(22).image.argv == execed.image.argv


def test_who_began_meanwhile_has_not_vanished(scene: Scene) -> None:
    scene.scan()
    scene.look()
    process = scene.table.fork(1, 30, BEGUN_NS)
    assert scene.finish() == []
    assert scene.get(30) is process
    scene.proc.add(30, comm=b"systemd", exe="/usr/lib/systemd/systemd", cmdline=b"/sbin/init\0", start=2000)


def test_what_was_read_is_older_than_an_exec_since(scene: Scene) -> None:
    scene.proc.add(20)
    scene.scan()
    scene.proc.remove(20)
    scene.proc.add(20, exe="/usr/bin/lost")
    scene.look()
    scene.proc.remove(20)
    scene.proc.add(20, exe="/usr/bin/new")
    new = scene.reader.read(20)
    assert isinstance(new, Reading)
    process = scene.table.exec(20, new, scene.time.now_ns + 1)
    assert scene.finish() == []
    assert scene.get(20) is process


def test_what_was_read_is_older_than_a_change_of_ids_since(scene: Scene) -> None:
    scene.proc.add(20)
    scene.scan()
    scene.proc.remove(20)
    scene.proc.add(20, uid=1000)  # of that nothing was told
    scene.look()
    scene.table.changed(scene.get(20)).creds = scene.table.creds(Ids(2000, 2000, 2000, 2000))
    scene.proc.remove(20)
    scene.proc.add(20, uid=2000)
    assert scene.finish() == []
    assert scene.get(20).creds == scene.table.creds(Ids(2000, 2000, 2000, 2000))


def test_what_was_read_is_older_than_a_new_name_since(scene: Scene) -> None:
    scene.proc.add(20)
    scene.scan()
    scene.proc.remove(20)
    scene.proc.add(20, uid=1000)
    scene.look()
    scene.table.changed(scene.get(20)).comm = b"renamed"
    scene.finish()
    assert scene.get(20).comm == b"renamed"


def test_what_was_read_is_older_than_a_new_session_since(scene: Scene) -> None:
    scene.proc.add(20, tty=136 << 8 | 3)
    scene.scan()
    scene.proc.remove(20)
    scene.proc.add(20, uid=1000, tty=136 << 8 | 3)
    scene.look()
    process = scene.table.changed(scene.get(20))
    process.context = dataclasses.replace(process.context, tty=None)
    scene.finish()
    assert scene.get(20).context.tty is None


@pytest.mark.parametrize("fork_is_lost", [True, False])
def test_who_ended_meanwhile_and_was_not_reaped_has_not_appeared(scene: Scene, fork_is_lost: bool) -> None:
    scene.scan()
    scene.proc.add(30, start=1999)
    scene.look()
    if not fork_is_lost:
        scene.table.fork(1, 30, at(1999))
    assert scene.ends.task_ended(30, 30, CODE_3, scene.time.now_ns) is not None
    scene.proc.remove(30)
    scene.proc.add(30, start=1999, state=b"Z", exe=None, cmdline=b"")
    assert scene.finish() == []
    assert scene.table.get(30) is None


def test_whose_pid_is_anothers_by_now_has_not_appeared(scene: Scene) -> None:
    scene.scan()
    scene.proc.add(30, start=1500)
    scene.look()
    scene.proc.remove(30)
    scene.proc.add(30, start=2001)
    assert scene.finish() == []
    scene.proc.remove(30)


def test_unclaimed_records_are_of_lives_that_nobody_told_of(scene: Scene) -> None:
    scene.scan()
    scene.ends.records.add([record(50, CODE_3, comm=b"brief"), record(61, tgid=60, flags=0)], LOST_NS)
    (found,) = scene.run()
    assert isinstance(found, End)
    assert (found.process.pid, found.process.comm, found.wait_status) == (50, b"brief", CODE_3)
    assert scene.counts == (0, 1, 0)


def test_records_of_ends_that_are_to_come_are_left(scene: Scene) -> None:
    scene.proc.add(20)
    scene.scan()
    process = scene.get(20)
    scene.look()
    scene.ends.records.add([record(20, CODE_3, uid=0, gid=0)], scene.time.now_ns)
    assert scene.finish() == []
    end = scene.ends.task_ended(20, 20, CODE_3, scene.time.now_ns)
    assert end is not None
    assert (end.process, end.source) == (process, TASKSTATS)
    scene.proc.remove(20)


def test_who_may_not_be_read_has_not_vanished(scene: Scene) -> None:
    scene.proc.add(20)
    scene.scan()
    process = scene.get(20)
    scene.proc.refuse(20)
    assert scene.run() == []
    assert scene.get(20) is process


def test_who_may_not_be_read_and_is_not_known_yet_has_not_vanished(scene: Scene) -> None:
    scene.scan()
    (scene.proc.root / "30").write_bytes(b"")
    scene.look()
    process = scene.table.fork(1, 30, at(1999))
    assert scene.finish() == []
    assert scene.get(30) is process


def test_whose_files_may_not_be_read_has_not_vanished(scene: Scene) -> None:
    scene.proc.add(20)
    scene.scan()
    process = scene.get(20)
    scene.proc.refuse_files(20)
    assert scene.run() == []
    assert scene.get(20) is process


def test_where_it_cannot_ask_other_events_will_do(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> None:
        raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))

    scene.proc.add(20)
    scene.scan()
    scene.proc.remove(20)
    monkeypatch.setattr(scene.resync, "_ask", refused)
    assert len(scene.run()) == 1


def test_it_waits_until_the_events_have_been_worked_off(scene: Scene) -> None:
    scene.proc.add(20)
    scene.scan()
    scene.proc.remove(20)
    scene.look()
    read_ns = scene.time.now_ns
    assert scene.resync.step(read_ns) == []
    assert (scene.asked, scene.resync.is_waiting) == (0, True)
    scene.time.now_ns += 10 * SETTLE_NS
    for _ in range(3):
        assert scene.resync.step(read_ns + SETTLE_NS - 1) == []
        # Where nothing happens, there are no events that show how far they are.
        assert (scene.asked, scene.resync.is_waiting, scene.resync.is_running) == (1, True, True)
    assert len(scene.finish()) == 1
    assert not scene.resync.is_running


def test_it_goes_in_small_steps(scene: Scene) -> None:
    scene.scan()
    for pid in range(20, 20 + 3 * STEP):
        scene.proc.add(pid)
    scene.resync.request(0, LOST_NS)
    scene.reader.reads = 0
    while not scene.resync.is_waiting:
        before = scene.reader.reads
        assert scene.resync.step(scene.time.now_ns) == []
        assert scene.reader.reads - before <= STEP
    assert len(scene.finish()) == 3 * STEP


def test_a_loss_meanwhile_has_a_resync_of_its_own_later(scene: Scene) -> None:
    scene.scan()
    scene.look()
    scene.resync.request(at(2001), at(2002))
    scene.proc.add(20, start=1500)
    assert scene.finish() == []
    assert scene.resync.step(scene.time.now_ns) == []
    assert not scene.resync.is_running
    scene.time.now_ns = BEGUN_NS + INTERVAL_NS
    assert scene.resync.step(scene.time.now_ns) == []
    assert scene.resync.is_running
    assert (scene.resync.summary.since_ns, scene.resync.summary.until_ns) == (at(2001), at(2002))
    assert scene.finish() == [scene.get(20)]
