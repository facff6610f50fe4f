# SPDX-License-Identifier: MIT
"""Which recording is of which EXEC, and what /proc may add to it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from procwatchd.kernel import recording, wire
from procwatchd.kernel.clock import NS_PER_TICK
from procwatchd.kernel.recording import NO_AUDIT_ID
from procwatchd.process import recorded as recorded_module
from procwatchd.process.hand import Hand
from procwatchd.process.model import Context
from procwatchd.process.procfs import Ids, NotRead, Reader, Reading, Wants
from procwatchd.process.recorded import Recorded
from procwatchd.process.table import Table
from tests.unit.fakeproc import HOST_MOUNTS, HOST_USERS, FakeProc
from tests.unit.test_recording import Made
from tests.unit.test_table import add, at, table

__all__ = ["table"]

EXEC, EXIT = wire.EXEC, wire.EXIT
PID = 42
# Nothing happens sooner after something else.
STEP = 50_000
PROG = Made(tgid=PID, exe=b"prog\0bin\0usr\0", argv=b"prog\0-x\0", start_ns=100 * NS_PER_TICK)

# Longer than what is recorded of arguments, shorter than what is read of them.
LONG = b"prog\0" + b"".join(b"%05d\0" % n for n in range(3000))
HEAD_BYTES, TAIL_BYTES = 8192, 4096
CUT = dataclasses.replace(PROG, argv=LONG[:HEAD_BYTES], tail=LONG[-TAIL_BYTES:], argv_bytes=len(LONG))


class Scene:
    """Recordings, and a /proc to complete them from."""

    def __init__(self, root: Path) -> None:
        self.proc = FakeProc(root)
        self.reader = Reader(Wants(), proc=str(root), sys=str(root / "sys"))
        self.recorded = Recorded(self.reader)

    def add(self, *made: Made) -> None:
        self.recorded.add([one.item() for one in made])

    def take(self, ns: int, pid: int = PID) -> Reading:
        found = self.recorded.take(pid, ns)
        assert found is not None
        return found

    def argv(self, ns: int) -> bytes | None:
        return self.take(ns).argv

    @property
    def counts(self) -> tuple[int, int]:
        """How many recordings had no EXEC, and EXECs no recording."""
        return self.recorded.unused, self.recorded.missing


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "proc")


def made(argv: bytes, ns: int, pid: int = PID) -> Made:
    return dataclasses.replace(PROG, argv=argv, ns=ns, tgid=pid)


def test_all_that_was_recorded(scene: Scene) -> None:
    one = dataclasses.replace(
        PROG,
        filename=b"./prog\0",
        cwd=b"srv\0",
        ids=(1000, 0, 100, 50),
        audit=(1000, 7),
        tty=136 << 8 | 3,
        sid=40,
        ns=5,
        ppid=7,
    )
    scene.add(one)
    found = scene.take(5)
    assert (found.stat.comm, found.stat.ppid, found.stat.start_ticks) == (b"prog", 7, 100)
    assert (found.exe, found.argv, found.argv_bytes) == (b"/usr/bin/prog", b"prog\0-x\0", 8)
    assert (found.filename, found.is_recorded, found.ids) == (b"./prog", True, Ids(1000, 0, 100, 50))
    assert found.context == Context(
        cwd=b"/srv",
        tty="pts/3",
        sid=40,
        loginuid=1000,
        audit_session=7,
        place=scene.reader.places.get(b"/system.slice/prog.service"),
        host_mounts=True,
    )
    assert scene.counts == (0, 0)


def test_other_namespaces_are_named(scene: Scene) -> None:
    scene.add(dataclasses.replace(PROG, namespaces=(1, 2)))
    context = scene.take(0).context
    assert (context.mount_namespace, context.user_namespace, context.host_mounts) == (1, 2, False)


def test_what_is_not_known_of_its_place_is_absent(scene: Scene) -> None:
    scene.add(dataclasses.replace(PROG, flags=recording.CGROUP_CUT | recording.CWD_CUT))
    assert scene.take(0).context == Context(sid=PID, host_mounts=True)


def test_what_is_the_same_for_many_is_kept_for_them(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded_module, "CONTEXTS_LIMIT", 4)
    differing: tuple[dict[str, Any], ...] = (
        {},
        {"cwd": b"tmp\0"},
        {"cgroup": b"other.service\0"},
        {"sid": 43},
        {"tty": 136 << 8},
        {"audit": (1000, NO_AUDIT_ID)},
        {"audit": (NO_AUDIT_ID, 1000)},
        {"namespaces": (1, HOST_USERS)},
        {"namespaces": (HOST_MOUNTS, 1)},
    )
    places = [dataclasses.replace(PROG, **one) for one in differing]
    contexts = []
    for place in places:
        scene.add(place, dataclasses.replace(place, tgid=43))
        contexts.append(scene.take(0).context)
        assert scene.take(0, pid=43).context is contexts[-1]
        assert len(scene.recorded._contexts) <= 4
    assert all(one not in contexts[:n] for n, one in enumerate(contexts))


def test_a_head_and_a_tail_may_be_all(scene: Scene) -> None:
    argv = LONG[: HEAD_BYTES + 100]
    scene.add(
        dataclasses.replace(PROG, argv=argv[:HEAD_BYTES], tail=argv[-TAIL_BYTES:], argv_bytes=len(argv))
    )
    found = scene.take(0)
    assert (found.argv, found.argv_bytes, found.argv_tail) == (argv, len(argv), b"")


def test_each_exec_has_the_recording_from_just_before_it(scene: Scene) -> None:
    scene.add(
        made(b"one\0", 10 * STEP),
        made(b"other\0", 15 * STEP, pid=43),
        made(b"two\0", 20 * STEP),
        made(b"three\0", 30 * STEP),
    )
    assert scene.argv(11 * STEP) == b"one\0"
    assert scene.argv(20 * STEP) == b"two\0"
    assert scene.take(15 * STEP, pid=43).argv == b"other\0"
    assert scene.argv(99 * STEP) == b"three\0"
    assert scene.counts == (0, 0)


def test_a_recording_from_after_an_exec_is_of_the_next_one(scene: Scene) -> None:
    scene.add(made(b"two\0", 20 * STEP))
    assert scene.recorded.take(PID, 19 * STEP) is None
    assert scene.argv(20 * STEP) == b"two\0"
    assert scene.recorded.take(PID, 21 * STEP) is None
    assert scene.counts == (0, 2)


def test_clocks_may_differ_a_little(scene: Scene) -> None:
    margin = recorded_module.MARGIN_NS
    scene.add(made(b"one\0", margin), made(b"two\0", 2 * margin + 1))
    assert scene.argv(0) == b"one\0"
    assert scene.recorded.take(PID, margin) is None
    assert scene.argv(margin + 1) == b"two\0"


def test_where_an_exec_was_lost_its_recording_is_nobodys(scene: Scene) -> None:
    scene.add(made(b"lost\0", 10 * STEP), made(b"lost too\0", 20 * STEP), made(b"told\0", 30 * STEP))
    assert scene.argv(31 * STEP) == b"told\0"
    assert scene.recorded.take(PID, 40 * STEP) is None
    assert scene.counts == (2, 1)


def test_what_is_no_recording_is_left_out(scene: Scene) -> None:
    scene.recorded.add([b"", PROG.item()[:-1], bytes(104)[:103], PROG.item()])
    assert scene.argv(0) == b"prog\0-x\0"
    assert scene.recorded.take(0, 0) is None


def test_a_whole_recording_needs_no_proc(scene: Scene) -> None:
    scene.proc.add(PID, exe="/usr/bin/prog", cmdline=b"prog\0-y\0", start=100)
    scene.add(PROG)
    assert scene.argv(0) == b"prog\0-x\0"


def hand_of(scene: Scene) -> Hand:
    return Hand(scene.reader, scene.recorded, own_pid=1)


def events(*described: tuple[int, int, int]) -> list[wire.RawEvent]:
    """Events as (what, pid, time)."""
    return wire.decode(
        b"".join(wire.encode_event(what, pid, pid, timestamp_ns=ns) for what, pid, ns in described)
    )[0]


def test_what_was_not_recorded_is_read(scene: Scene) -> None:
    scene.proc.add(43, cmdline=b"read\0")
    hand = hand_of(scene)
    arrived = events(
        (EXEC, PID, 10 * STEP),
        (EXEC, 43, 11 * STEP),
        (EXEC, 44, 12 * STEP),
        (EXEC, 45, 13 * STEP),
        (EXIT, 45, 14 * STEP),
    )
    hand.take_in(arrived, [made(b"recorded\0", 9 * STEP).item()], is_behind=False)
    assert len(hand) == 5
    _events, outcomes = hand.play(5)
    shown = {n: (o.argv, o.is_recorded) if isinstance(o, Reading) else o for n, o in outcomes.items()}
    assert shown == {
        0: (b"recorded\0", True),
        1: (b"read\0", False),
        2: NotRead.GONE,
        3: NotRead.GONE,
    }
    assert scene.counts == (0, 3)


def test_what_was_recorded_waits_for_its_event_in_the_hand(scene: Scene) -> None:
    """The recordings of a batch may be of events that are in the next one, and its events wait for that."""
    hand = hand_of(scene)
    recordings = [made(b"one\0", 10 * STEP).item(), made(b"two\0", 20 * STEP).item()]
    hand.take_in(events((EXEC, PID, 11 * STEP)), recordings, is_behind=True)
    hand.take_in(events((EXEC, PID, 21 * STEP)), [], is_behind=True)
    _events, outcomes = hand.play(1)
    assert {n: o.argv for n, o in outcomes.items() if isinstance(o, Reading)} == {0: b"one\0"}
    _events, outcomes = hand.play(1)
    assert {n: o.argv for n, o in outcomes.items() if isinstance(o, Reading)} == {0: b"two\0"}


def identity(table: Table, reading: Reading, ns: int) -> tuple[str, bytes | None]:
    image = table.exec(PID, reading, ns).image
    return image.identity, image.argv


def test_a_recording_is_of_the_life_that_it_is_joined_with(scene: Scene, table: Table) -> None:
    add(table, PID, tick=100)
    scene.add(made(b"prog\0", at(100) + 10))
    assert identity(table, scene.take(at(100) + 20), at(100) + 20) == ("same", b"prog\0")
    # The clock of a FORK is a moment late: its start may be the tick before.
    add(table, PID, tick=101)
    scene.add(made(b"next\0", at(101) + 10))
    assert identity(table, scene.take(at(101) + 20), at(101) + 20) == ("same", b"next\0")


def test_a_recording_of_an_earlier_life_is_not_taken(scene: Scene, table: Table) -> None:
    """The first life's EXEC and the second one's recording were lost."""
    scene.add(made(b"first\0", at(100)))
    add(table, PID, tick=200)
    assert identity(table, scene.take(at(201)), at(201)) == ("unknown", None)


def test_nor_is_one_from_within_the_same_tick(scene: Scene, table: Table) -> None:
    scene.add(made(b"first\0", at(100)))
    table.fork(1, PID, at(100) + 10)
    assert identity(table, scene.take(at(100) + 20), at(100) + 20) == ("unknown", None)


def test_a_recording_of_an_exec_before_the_last_one_is_not_taken(scene: Scene, table: Table) -> None:
    add(table, PID, tick=100)
    assert table.exec(PID, NotRead.GONE, at(150)).image.identity == "gone"
    scene.add(made(b"before\0", at(149)))
    assert identity(table, scene.take(at(160)), at(160)) == ("unknown", None)


def test_a_recording_of_a_later_life_says_that_the_known_one_is_over(scene: Scene, table: Table) -> None:
    add(table, PID, tick=50)
    scene.add(made(b"prog\0", at(100)))
    assert identity(table, scene.take(at(110)), at(110)) == ("same", b"prog\0")
    process = table.get(PID)
    assert process is not None
    assert process.process_id == "42-100"


def told(scene: Scene) -> Reading:
    """What is told of an exec, of what was recorded and what /proc has."""
    hand = hand_of(scene)
    hand.take_in(events((EXEC, PID, STEP)), [], is_behind=False)
    found = hand.play(1)[1][0]
    assert isinstance(found, Reading)
    return found


def test_what_was_cut_is_read(scene: Scene) -> None:
    scene.proc.add(PID, exe="/usr/bin/prog", cmdline=LONG, start=100)
    scene.add(CUT)
    found = told(scene)
    assert (found.argv, found.argv_bytes, found.argv_tail) == (LONG, len(LONG), b"")
    assert (found.is_recorded, found.exe) == (True, b"/usr/bin/prog")


def test_a_path_that_was_cut_is_read(scene: Scene) -> None:
    scene.proc.add(PID, exe="/usr/bin/prog", cmdline=b"prog\0-x\0", start=100)
    scene.add(dataclasses.replace(PROG, flags=recording.EXE_CUT))
    assert told(scene).exe == b"/usr/bin/prog"


def test_arguments_that_could_not_be_recorded_are_read(scene: Scene) -> None:
    scene.proc.add(PID, exe="/usr/bin/prog", cmdline=b"prog\0-x\0", start=100)
    scene.add(dataclasses.replace(PROG, argv=b"", argv_bytes=8, flags=recording.ARGV_UNREAD))
    assert told(scene).argv == b"prog\0-x\0"


MIDDLE = len(LONG) // 2
OTHERS: dict[str, dict[str, object]] = {
    "gone": {},
    "another life": {"start": 101},
    "another program": {"exe": "/usr/bin/other"},
    "a longer one": {"cmdline": LONG + b"x\0"},
    "another head": {"cmdline": b"PROG" + LONG[4:]},
    "another tail": {"cmdline": LONG[:-2] + b"x\0"},
    "ended": {"exe": None, "cmdline": b""},
}


@pytest.mark.parametrize("other", OTHERS)
def test_what_was_cut_stays_cut_where_another_image_is_there(scene: Scene, other: str) -> None:
    if OTHERS[other]:
        shown = {"exe": "/usr/bin/prog", "cmdline": LONG, "start": 100, **OTHERS[other]}
        scene.proc.add(PID, **shown)  # type: ignore[arg-type]
    scene.add(CUT)
    found = told(scene)
    assert (found.argv, found.argv_tail) == (LONG[:HEAD_BYTES], LONG[-TAIL_BYTES:])
    assert (found.argv_bytes, found.exe) == (len(LONG), b"/usr/bin/prog")


# Two execs of which the second looks like the first, as far as it was recorded: arguments with another middle, and
# another program that was given what the first one was.
ALIKE = [
    (CUT, CUT, LONG[:MIDDLE] + b"x" + LONG[MIDDLE + 1 :]),
    (dataclasses.replace(PROG, flags=recording.EXE_CUT), PROG, PROG.argv),
]


def check_alike(scene: Scene, batches: list[tuple[list[wire.RawEvent], list[bytes]]], first: Made) -> None:
    """Whether the first exec is told of by what was recorded of it alone."""
    hand = hand_of(scene)
    for arrived, recordings in batches:
        hand.take_in(arrived, recordings, is_behind=False)
    _events, outcomes = hand.play(2)
    before, after = outcomes[0], outcomes[1]
    assert isinstance(before, Reading)
    assert isinstance(after, Reading)
    assert before.argv == first.argv
    assert (before.exe is None) == bool(first.flags)
    assert after.exe == b"/usr/bin/prog"


@pytest.mark.parametrize(("first", "second", "cmdline"), ALIKE)
@pytest.mark.parametrize("batches", [1, 2])
def test_what_the_next_exec_made_is_not_taken_for_the_first(
    scene: Scene, first: Made, second: Made, cmdline: bytes, batches: int
) -> None:
    """/proc has it a moment before it is recorded, and it may be told of with the next batch."""
    scene.proc.add(PID, exe="/usr/bin/prog", cmdline=cmdline, start=100)
    execs = events((EXEC, PID, 11 * STEP), (EXEC, PID, 21 * STEP))
    items = [dataclasses.replace(made, ns=ns * STEP).item() for made, ns in ((first, 10), (second, 20))]
    whole = [(execs, items)]
    halves = [(execs[:1], items[:1]), (execs[1:], items[1:])]
    check_alike(scene, whole if batches == 1 else halves, first)


def test_recordings_that_nobody_takes_have_a_limit(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded_module, "WAITING_LIMIT", 3)
    scene.add(*(made(b"%d\0" % pid, 10 * STEP, pid=pid) for pid in range(10, 16)))
    # All of what just came may be of EXECs that just came.
    assert scene.take(11 * STEP, pid=10).argv == b"10\0"
    assert scene.counts == (0, 0)
    scene.add(made(b"new\0", 20 * STEP, pid=99))
    assert scene.counts == (2, 0)
    assert scene.recorded.take(11, 21 * STEP) is None
    assert scene.recorded.take(12, 21 * STEP) is None
    assert scene.take(21 * STEP, pid=13).argv == b"13\0"
    assert scene.take(21 * STEP, pid=99).argv == b"new\0"


def test_so_have_those_of_one_process(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody tells of its EXECs while we are blind."""
    monkeypatch.setattr(recorded_module, "WAITING_LIMIT", 3)
    for n in range(100):
        scene.add(made(b"%d\0" % n, n * STEP))
    assert sum(map(len, scene.recorded._waiting.values())) <= 4
    assert scene.recorded.unused >= 96
    assert scene.argv(200 * STEP) == b"99\0"
