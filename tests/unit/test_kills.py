# SPDX-License-Identifier: MIT
"""Who killed it: which of the signals that were generated is named."""

from __future__ import annotations

import signal
import struct

import pytest

from procwatchd.kernel.recording import BLOCKED, OOM_VICTIM, SIGNAL, TO_GROUP, TRACED
from procwatchd.process import kills as kills_module
from procwatchd.process.kills import Kills
from procwatchd.process.model import Killer
from procwatchd.process.table import Table
from tests.unit.test_table import add, at, reading, table

__all__ = ["table"]

SIGTERM, SIGKILL, SIGUSR1 = int(signal.SIGTERM), int(signal.SIGKILL), int(signal.SIGUSR1)
QUEUED = 34
NS_PER_TICK = 10_000_000
TARGET, ANN, BOB, KERNEL = 42, 10, 11, 0
ITEM = struct.Struct("=QQQ 7I 16s I")
ALL = 1 << 62


def item(
    sender: int,
    number: int = SIGTERM,
    flags: int = TO_GROUP,
    *,
    target: int = TARGET,
    tid: int | None = None,
    start: int = 100,
    sender_start: int = 50,
    comm: bytes = b"killer",
    ns: int | None = None,
    kind: int = SIGNAL,
    uid: int = 7,
) -> bytes:
    """As the kernel gives it; starts in ticks."""
    starts = (start * NS_PER_TICK + 12345, sender_start * NS_PER_TICK + 999)
    who = (target, tid or target, sender, uid if sender else 0)
    if ns is None:
        ns = start * NS_PER_TICK + 5_000_000
    return ITEM.pack(ns, *starts, kind, number, *who, flags, comm if sender else b"", 0)


def victim(tid: int = TARGET, ns: int = 100 * NS_PER_TICK + 6_000_000) -> bytes:
    """The OOM killer's mark."""
    return ITEM.pack(ns, 0, 0, OOM_VICTIM, 0, 0, tid, 0, 0, 0, b"", 0)


class Scene:
    """A table with two who may kill, and one who may be killed."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.now_ns = 0
        self.kills = Kills(table, lambda: self.now_ns)
        for pid, comm in ((ANN, b"ann"), (BOB, b"bob")):
            add(table, pid, tick=50)
            table.exec(pid, reading(start=50, comm=comm), at(51))
        self.begin()

    def begin(self, tick: int = 100) -> None:
        """The target's next life."""
        add(self.table, TARGET, tick=tick)

    def killer(self, *items: bytes, number: int = SIGTERM) -> Killer | None:
        """Who is named after these, as the target ends by this signal."""
        self.kills.add(list(items))
        self.kills.come_to(ALL)
        return self.end(number)[0]

    def end(self, number: int = SIGTERM) -> tuple[Killer | None, bool]:
        process = self.table.get(TARGET)
        assert process is not None
        return self.kills.take(process, number)


@pytest.fixture
def scene(table: Table) -> Scene:
    return Scene(table)


def pid_of(killer: Killer | None) -> int | None:
    return None if killer is None else killer.pid


def test_who_sent_the_signal(scene: Scene) -> None:
    """The name is of the moment of the signal, the executable of the table, the uid the sender's."""
    assert scene.killer(item(ANN, comm=b"ann-now", uid=1000)) == Killer(
        ANN, b"ann-now", b"/usr/bin/ann", 1000, False
    )
    assert scene.end() == (None, False)


def test_a_name_is_whatever_the_sender_chose(scene: Scene) -> None:
    killer = scene.killer(item(ANN, comm=b") R 1 (\n\xff"))
    assert killer is not None
    assert killer.comm == b") R 1 (\n\xff"


def test_only_the_signal_that_ended_it_counts(scene: Scene) -> None:
    others = [item(ANN, SIGUSR1, BLOCKED | TO_GROUP), item(ANN, SIGKILL)]
    assert scene.killer(*others, number=SIGTERM) is None
    assert pid_of(scene.killer(*others, item(BOB), number=SIGTERM)) == BOB


def test_the_last_one_did_it(scene: Scene) -> None:
    """One that was blocked was taken, or the next one would not have been generated."""
    first = item(ANN, SIGTERM, BLOCKED | TO_GROUP)
    assert pid_of(scene.killer(first, item(BOB))) == BOB
    assert pid_of(scene.killer(first, item(BOB, SIGTERM, BLOCKED | TO_GROUP))) == BOB
    assert pid_of(scene.killer(first)) == ANN


def test_nothing_ends_by_two_that_kill(scene: Scene) -> None:
    """Old kernels generate signals for who is ending already: nobody knows which one it was, but for SIGKILL."""
    assert scene.killer(item(ANN), item(BOB)) is None
    assert pid_of(scene.killer(item(ANN, SIGKILL), item(BOB, SIGKILL), number=SIGKILL)) == ANN
    assert pid_of(scene.killer(item(ANN, SIGKILL), item(KERNEL, SIGKILL), number=SIGKILL)) == ANN
    assert scene.killer(item(KERNEL, SIGKILL), item(BOB, SIGKILL), number=SIGKILL) is None


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (item(ANN, flags=BLOCKED), item(BOB, flags=BLOCKED | TO_GROUP)),
        (item(ANN, flags=BLOCKED | TO_GROUP), item(BOB, flags=BLOCKED)),
        (item(ANN, flags=BLOCKED, tid=43), item(BOB, flags=BLOCKED, tid=44)),
        (item(ANN, flags=BLOCKED), item(KERNEL, flags=BLOCKED | TO_GROUP)),
    ],
)
def test_each_task_has_a_queue_of_its_own(scene: Scene, first: bytes, second: bytes) -> None:
    assert scene.killer(first, second) is None


def test_of_those_that_queue_any_may_have_done_it(scene: Scene) -> None:
    for flags in (BLOCKED | TO_GROUP, TO_GROUP):
        assert scene.killer(item(ANN, QUEUED, flags), item(BOB, QUEUED, flags), number=QUEUED) is None
    assert pid_of(scene.killer(item(ANN, QUEUED), number=QUEUED)) == ANN
    # Nor does a third one say which.
    blocked = BLOCKED | TO_GROUP
    three = [item(ANN, QUEUED, blocked), item(BOB, QUEUED, blocked), item(BOB, QUEUED, blocked)]
    assert scene.killer(*three, number=QUEUED) is None


def test_one_and_the_same_may_send_many(scene: Scene) -> None:
    flags = BLOCKED | TO_GROUP
    assert pid_of(scene.killer(item(ANN, QUEUED, flags), item(ANN, QUEUED, flags), number=QUEUED)) == ANN
    assert pid_of(scene.killer(item(ANN, flags=BLOCKED), item(ANN, flags=BLOCKED | TO_GROUP))) == ANN


def test_a_tracer_may_have_sent_another(scene: Scene) -> None:
    assert scene.killer(item(ANN, flags=TO_GROUP | TRACED)) is None
    # That one it cannot hold back.
    assert pid_of(scene.killer(item(ANN, SIGKILL, TRACED), number=SIGKILL)) == ANN


def test_the_kernels_signals_have_no_sender(scene: Scene) -> None:
    assert scene.killer(item(KERNEL)) is None
    assert scene.killer(item(ANN, flags=BLOCKED | TO_GROUP), item(KERNEL)) is None


def test_an_earlier_lifes_signal_names_nobody(scene: Scene) -> None:
    scene.kills.add([item(ANN, SIGKILL), item(ANN)])
    scene.kills.come_to(ALL)
    scene.begin(tick=200)
    assert scene.end(SIGKILL) == (None, False)
    assert scene.end(SIGTERM) == (None, False)


def test_nor_does_it_stand_in_the_way_of_a_later_lifes(scene: Scene) -> None:
    """SIGKILL, too, of which the first counts; and what queues."""
    for number in (SIGTERM, SIGKILL, QUEUED):
        scene.kills.add([item(ANN, number)])
    for tick, number in ((200, SIGTERM), (300, SIGKILL), (400, QUEUED)):
        scene.begin(tick=tick)
        assert pid_of(scene.killer(item(BOB, number, start=tick), number=number)) == BOB


def test_a_start_by_the_clock_of_a_fork_may_be_late(scene: Scene) -> None:
    """By as long as its parent had to wait for a CPU in between; but no signal to it came before."""
    for start in (101, 100, 99, 90):
        assert pid_of(scene.killer(item(ANN, start=start, ns=at(100) + 1))) == ANN
    assert scene.killer(item(ANN, start=102)) is None
    assert scene.killer(item(ANN, start=99, ns=at(100) - 1)) is None
    scene.table.exec(TARGET, reading(start=100), at(100))
    assert scene.killer(item(ANN, start=99, ns=at(100) + 1)) is None
    assert pid_of(scene.killer(item(ANN, start=100))) == ANN


def test_of_a_process_whose_start_is_unknown_nothing_is_told(scene: Scene) -> None:
    scene.kills.add([item(ANN, target=77, start=0)])
    scene.kills.come_to(ALL)
    assert scene.kills.take(Table.stranger(77), SIGTERM) == (None, False)


def test_of_a_sender_that_is_not_known_its_executable_is_absent(scene: Scene) -> None:
    scene.table.remove(scene.table.living()[0])
    assert scene.killer(item(ANN)) == Killer(ANN, b"killer", None, 7, False)


def test_nor_is_it_that_of_another_life(scene: Scene) -> None:
    add(scene.table, ANN, tick=90)
    scene.table.exec(ANN, reading(start=90, comm=b"another"), at(91))
    assert scene.killer(item(ANN)) == Killer(ANN, b"killer", None, 7, False)
    later = scene.killer(item(ANN, sender_start=90))
    assert later is not None
    assert later.exe == b"/usr/bin/another"


def test_a_sender_is_who_it_was_then(scene: Scene) -> None:
    """What it becomes later, and who has its PID later, is of no account."""
    scene.kills.add([item(ANN, ns=at(100) + 10), item(ANN, SIGUSR1, ns=at(100) + 30)])
    scene.kills.come_to(at(100) + 20)
    scene.table.exec(ANN, reading(start=50, comm=b"later"), at(100) + 20)
    scene.kills.come_to(at(100) + 30)
    first, _ = scene.end(SIGTERM)
    assert first is not None
    assert first.exe == b"/usr/bin/ann"


def test_a_signal_from_after_the_end_is_not_come_to(scene: Scene) -> None:
    scene.kills.add([item(ANN, ns=at(101))])
    scene.kills.come_to(at(101) - 1)
    assert scene.end() == (None, False)
    scene.kills.come_to(at(101))
    assert pid_of(scene.end()[0]) == ANN


def test_the_oom_killers_choice(scene: Scene) -> None:
    scene.kills.add([item(KERNEL, SIGKILL, tid=43), victim(43)])
    scene.kills.come_to(ALL)
    assert scene.end(SIGKILL) == (None, True)
    assert scene.end(SIGKILL) == (None, False)


def test_whoever_ended_by_another_signal_was_not_killed_by_it(scene: Scene) -> None:
    scene.kills.add([item(KERNEL, SIGKILL), victim(), item(ANN)])
    scene.kills.come_to(ALL)
    killer, is_oom_killed = scene.end(SIGTERM)
    assert (pid_of(killer), is_oom_killed) == (ANN, False)


@pytest.mark.parametrize(
    "items",
    [
        [victim()],
        [item(ANN, SIGKILL), victim()],
        [item(KERNEL, SIGTERM), victim()],
        [item(KERNEL, SIGKILL), victim(43)],
        [victim(ns=at(100)), item(KERNEL, SIGKILL)],
        [item(KERNEL, SIGKILL, start=90), victim()],
    ],
    ids=["no signal", "another's", "another signal", "another task", "before it", "an earlier life"],
)
def test_a_mark_is_of_the_kernels_own_sigkill(scene: Scene, items: list[bytes]) -> None:
    scene.kills.add(items)
    scene.kills.come_to(ALL)
    assert not scene.end(SIGKILL)[1]


def test_a_mark_is_of_the_last_one_with_that_id(scene: Scene) -> None:
    """An earlier process of which nobody told that it ended may have had it."""
    scene.kills.add([item(KERNEL, SIGKILL, target=41, tid=43), item(KERNEL, SIGKILL, tid=43), victim(43)])
    scene.kills.come_to(ALL)
    assert scene.end(SIGKILL) == (None, True)


def test_lost_signals_forget_those_so_far(scene: Scene) -> None:
    """The last one that waited may be among them; whom one ended that did not wait, none of them did."""
    blocked = BLOCKED | TO_GROUP
    scene.kills.add(
        [
            item(ANN, SIGTERM, blocked, ns=at(101)),
            item(ANN, SIGUSR1, ns=at(102)),
            item(ANN, QUEUED, blocked, ns=at(104)),
            item(ANN, SIGKILL, ns=at(105)),
        ]
    )
    scene.kills.come_to(at(103))
    scene.kills.lost()
    scene.kills.come_to(ALL)
    assert scene.kills._of_process.keys() == {TARGET}
    assert scene.kills._of_process[TARGET].keys() == {SIGUSR1, SIGKILL}
    assert pid_of(scene.end(SIGKILL)[0]) == ANN
    assert pid_of(scene.killer(item(BOB))) == BOB


def test_a_loss_leaves_nothing_of_who_was_not_killed(scene: Scene) -> None:
    scene.kills.add([item(ANN, SIGTERM, BLOCKED | TO_GROUP)])
    scene.kills.come_to(ALL)
    scene.kills.lost()
    assert not scene.kills._of_process
    assert scene.end() == (None, False)


def test_an_end_by_itself_forgets(scene: Scene) -> None:
    scene.kills.add([item(ANN, flags=BLOCKED | TO_GROUP)])
    scene.kills.come_to(ALL)
    process = scene.table.get(TARGET)
    assert process is not None
    scene.kills.forget(process)
    scene.kills.forget(process)
    assert scene.end() == (None, False)


def test_the_end_of_a_life_leaves_what_the_next_one_got(scene: Scene) -> None:
    """An EXIT may come after the next FORK with the same PID, and after a signal to that life."""
    before = scene.table.get(TARGET)
    assert before is not None
    scene.begin(tick=200)
    scene.kills.add([item(ANN, start=200)])
    scene.kills.come_to(ALL)
    scene.kills.forget(before)
    assert pid_of(scene.end()[0]) == ANN


@pytest.mark.parametrize("number", [SIGTERM, QUEUED])
def test_what_may_wait_from_before_we_knew_names_nobody(scene: Scene, number: int) -> None:
    """From before the recorder, or lost, or forgotten: a later one that may wait, too, is not sure to be the first."""
    later = item(BOB, number, BLOCKED | TO_GROUP)
    assert pid_of(scene.killer(later, number=number)) == BOB
    scene.now_ns = at(100) + 1
    scene.kills.lost()
    assert scene.killer(later, number=number) is None
    assert pid_of(scene.killer(item(BOB, number), number=number)) == BOB
    scene.begin(tick=200)
    assert pid_of(scene.killer(item(BOB, number, BLOCKED | TO_GROUP, start=200), number=number)) == BOB


def test_what_is_no_recording_is_left_out(scene: Scene) -> None:
    assert pid_of(scene.killer(b"", bytes(71), bytes(73), item(ANN)[:-1], item(BOB))) == BOB


def test_those_remembered_have_a_limit(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kills_module, "REMEMBERED_LIMIT", 3)
    scene.kills.add([item(ANN), *(item(ANN, target=pid) for pid in (100, 101, 102))])
    scene.kills.come_to(ALL)
    assert scene.kills.forgotten == 1
    assert scene.end() == (None, False)
    assert pid_of(scene.killer(item(ANN))) == ANN
    assert scene.kills.forgotten == 2


def test_what_comes_later_from_before_is_in_its_place(scene: Scene) -> None:
    """There are two ways, and one is looked at before the other."""
    scene.kills.add([item(BOB, SIGUSR1, BLOCKED | TO_GROUP, target=77, ns=at(105))])
    scene.kills.add([item(ANN, ns=at(103))])
    scene.kills.come_to(at(104))
    assert pid_of(scene.end()[0]) == ANN


def test_those_that_wait_have_a_limit(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest are taken in before events from then are come to: who sent them may not be known."""
    monkeypatch.setattr(kills_module, "WAITING_LIMIT", 2)
    scene.kills.add([item(ANN, ns=at(101)), item(ANN, SIGUSR1, ns=at(102)), item(ANN, SIGKILL, ns=at(103))])
    assert len(scene.kills._waiting) == 2
    assert pid_of(scene.end()[0]) == ANN


def test_a_process_that_kills_itself(scene: Scene) -> None:
    scene.table.exec(TARGET, reading(start=100, comm=b"self"), at(100))
    killer = scene.killer(item(TARGET, flags=0, sender_start=100))
    assert killer is not None
    assert (killer.pid, killer.exe) == (TARGET, b"/usr/bin/self")
