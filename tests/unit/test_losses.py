# SPDX-License-Identifier: MIT
"""What is told of losses and of blindness."""

from __future__ import annotations

from pathlib import Path

import pytest

from procwatchd import losses as losses_module
from procwatchd.journal.kinds import DEBUG, NOTICE, WARNING
from procwatchd.journal.writer import Loss
from procwatchd.kernel import wire
from procwatchd.kernel.heartbeat import Blindness
from procwatchd.kernel.marks import Marks
from procwatchd.kernel.queue import Batch
from procwatchd.kernel.sequence import Gap
from procwatchd.ledger import Ledger
from procwatchd.losses import LOCATE_SECONDS, STRANGE_SECONDS, Losses
from procwatchd.process import resync as resync_module
from procwatchd.process.ends import Ends
from procwatchd.process.procfs import Reader, Wants
from procwatchd.process.resync import Resync, Summary
from procwatchd.process.table import Table
from tests.unit.test_clock import SECOND, FakeTime
from tests.unit.test_table import table

__all__ = ["table"]

USEC = 1000


class Scene:
    """Losses, and what they are told with; entries as they are written, by kind, priority, text and fields."""

    def __init__(self, table: Table, directory: Path, time: FakeTime) -> None:
        self.table = table
        self.time = time
        self.begun_ns = time.now_ns
        self.ledger = Ledger()
        self.ends = Ends(table)
        self.resync = Resync(table, self.ends, Reader(Wants(), proc=str(directory)), lambda: None)
        self.entries: list[tuple[str, int, str, dict[str, object]]] = []
        self.asked = 0
        self.signals_lost = 0
        self.marks = Marks()
        self.losses = Losses(
            self.ledger,
            table,
            self.ends,
            self.resync,
            self.own,
            self.want_acks,
            self.lost_signals,
            self.marks,
        )

    def own(self, kind: str, text: str, priority: int, **fields: object) -> None:
        self.entries.append((kind, priority, text, fields))

    def want_acks(self) -> None:
        self.asked += 1

    def lost_signals(self) -> None:
        self.signals_lost += 1

    def note(self, batch: Batch, *cpu_seq: tuple[int, int]) -> int:
        """A batch with these events arrives, each a microsecond after the one before; gives the time of the first."""
        first_ns = self.time.now_ns + SECOND
        self.time.now_ns = batch.received_ns = first_ns + SECOND
        datagrams = [
            wire.encode_event(wire.EXIT, cpu=cpu, seq=seq, timestamp_ns=first_ns + 1000 * n)
            for n, (cpu, seq) in enumerate(cpu_seq)
        ]
        self.losses.note(batch, self.ledger.see(wire.decode(b"".join(datagrams))[0]))
        return first_ns

    def tell(self, unwritten: Loss | None = None, *, at_once: bool = False) -> list[dict[str, object]]:
        """The fields of the new entries on losses."""
        before = len(self.entries)
        self.losses.tell(unwritten, 7 * SECOND, at_once=at_once)
        assert all((kind, priority) == ("loss", WARNING) for kind, priority, *_ in self.entries[before:])
        assert all(text.startswith("loss: ") for _, _, text, _ in self.entries[before:])
        return [fields for *_, fields in self.entries[before:]]

    def resync_is_wanted(self) -> bool:
        self.resync.step(self.time.now_ns)
        return self.resync.is_running


@pytest.fixture
def scene(table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    time = FakeTime()
    monkeypatch.setattr(losses_module, "time", time)
    monkeypatch.setattr(resync_module, "time", time)
    return Scene(table, tmp_path, time)


def test_where_nothing_was_lost_nothing_is_told(scene: Scene) -> None:
    scene.note(Batch(b""), (0, 1), (1, 1), (0, 2))
    assert scene.tell(at_once=True) == []
    assert scene.asked == 0
    assert scene.table.lost_ns == 0
    assert not scene.resync_is_wanted()


def test_a_loss_is_told_once_with_its_count_span_and_cpus(scene: Scene) -> None:
    first_ns = scene.note(Batch(b""), (3, 1), (0, 1), (1, 1), (2, 1))
    scene.note(Batch(b"", kernel_drops=5, queue_lost=4), (0, 7), (2, 4), (1, 3), (3, 2))
    assert (scene.ledger.lost_kernel, scene.ledger.lost_queue, scene.ledger.unlocated) == (5, 4, 1)
    assert scene.tell() == []
    third_ns = scene.note(Batch(b"", kernel_drops=5, queue_lost=4), (0, 8), (2, 6))
    # The first gap begins with the second event of the first batch, the last ends with the second of the third.
    where = {"since_usec": first_ns // USEC + 1, "until_usec": third_ns // USEC + 1, "cpus": "0-2"}
    assert scene.tell() == [
        {"lost_where": "kernel", "count": 5, **where},
        {"lost_where": "queue", "count": 4, **where},
    ]
    assert [text for _, _, text, _ in scene.entries] == [
        "loss: 5 events of CPU 0-2 within 4s, the kernel's socket buffer was full; a resync follows",
        "loss: 4 events of CPU 0-2 within 4s, the worker's queue was full; a resync follows",
    ]
    assert scene.tell(at_once=True) == []
    assert scene.asked == 1


def test_what_was_counted_and_not_located_yet_waits(scene: Scene) -> None:
    first_ns = scene.note(Batch(b""), (0, 1), (1, 1))
    scene.note(Batch(b"", kernel_drops=3), (0, 2))
    assert scene.tell() == []
    assert scene.asked == 1
    last_ns = scene.note(Batch(b"", kernel_drops=3), (1, 5))
    (told,) = scene.tell()
    assert (told["count"], told["cpus"]) == (3, "1")
    assert (told["since_usec"], told["until_usec"]) == (first_ns // USEC + 1, last_ns // USEC)


def test_what_cannot_be_located_is_told_without_its_cpus(scene: Scene) -> None:
    scene.note(Batch(b""), (0, 1))
    before_ns = scene.time.now_ns
    scene.note(Batch(b"", kernel_drops=3))
    noted_ns = scene.time.now_ns
    scene.time.now_ns += int(LOCATE_SECONDS * SECOND) - 1000
    assert scene.tell() == []
    scene.time.now_ns += 1000
    (told,) = scene.tell()
    assert (told["count"], told["cpus"]) == (3, None)
    assert told["since_usec"] == before_ns // USEC
    assert isinstance(told["until_usec"], int)
    assert told["until_usec"] >= noted_ns // USEC
    # Where it was, shows later: that is no other loss.
    scene.note(Batch(b"", kernel_drops=3), (0, 5))
    assert scene.tell(at_once=True) == []


def test_while_more_is_lost_it_is_told_all_the_same(scene: Scene) -> None:
    told = []
    for drops in range(1, 10):
        scene.note(Batch(b"", kernel_drops=drops))
        told += scene.tell()
    counts = [loss["count"] for loss in told]
    assert len(counts) > 1
    assert max(map(int, map(str, counts))) <= LOCATE_SECONDS + 1


def test_at_the_end_nothing_is_waited_for(scene: Scene) -> None:
    scene.note(Batch(b"", kernel_drops=3))
    assert scene.tell() == []
    assert [told["count"] for told in scene.tell(at_once=True)] == [3]


def test_totals_are_not_told_twice(scene: Scene) -> None:
    for drops, lost, records_lost in ((5, 0, 2), (5, 1, 2), (9, 1, 7)):
        scene.note(Batch(b"", kernel_drops=drops, queue_lost=lost, records_lost=records_lost))
    assert [(told["lost_where"], told["count"]) for told in scene.tell(at_once=True)] == [
        ("kernel", 9),
        ("queue", 1),
        ("accounting", 7),
    ]
    scene.note(Batch(b"", kernel_drops=10, queue_lost=1, records_lost=7))
    assert [(told["lost_where"], told["count"]) for told in scene.tell(at_once=True)] == [("kernel", 1)]
    assert (scene.ledger.lost, scene.losses.records) == (11, 7)


def test_the_kernels_counter_has_32_bits(scene: Scene) -> None:
    scene.note(Batch(b"", kernel_drops=0xFFFFFFFF))
    scene.note(Batch(b"", kernel_drops=4))
    assert scene.ledger.lost_kernel == 0x100000004
    assert [told["count"] for told in scene.tell(at_once=True)] == [0x100000004]


def test_a_loss_is_followed_by_a_resync(scene: Scene) -> None:
    scene.note(Batch(b""), (0, 1))
    before_ns = scene.time.now_ns
    scene.note(Batch(b"", queue_lost=3))
    assert scene.table.lost_ns == scene.time.now_ns
    assert scene.resync_is_wanted()
    assert (scene.resync.summary.since_ns, scene.resync.summary.until_ns) == (before_ns, scene.time.now_ns)


def test_a_gap_alone_is_followed_by_a_resync(scene: Scene) -> None:
    """What was malformed is in no counter of drops."""
    scene.losses.note(Batch(b""), [Gap(0, 1, 100, 200), Gap(1, 1, 50, 150)])
    assert scene.table.lost_ns == 200
    assert scene.resync_is_wanted()
    assert (scene.resync.summary.since_ns, scene.resync.summary.until_ns) == (50, 200)
    assert scene.tell(at_once=True) == []


def test_what_is_located_does_not_say_where_all_of_it_was(scene: Scene) -> None:
    scene.note(Batch(b""), (0, 1), (1, 1))
    scene.note(Batch(b"", kernel_drops=5), (0, 3))  # four of CPU 1 came last
    assert scene.table.lost_ns == scene.time.now_ns


def test_lost_records_need_no_resync(scene: Scene) -> None:
    scene.note(Batch(b""))
    before_ns = scene.time.now_ns
    scene.note(Batch(b"", records_lost=2))
    noted_ns = scene.time.now_ns
    scene.note(Batch(b"", records_lost=2))
    (told,) = scene.tell()
    assert (told["lost_where"], told["count"], told["cpus"]) == ("accounting", 2, None)
    assert told["since_usec"] == before_ns // USEC
    assert isinstance(told["until_usec"], int)
    assert told["until_usec"] >= noted_ns // USEC
    assert scene.ends._lost_ns == noted_ns
    assert (scene.asked, scene.table.lost_ns, scene.resync_is_wanted()) == (0, 0, False)
    assert scene.tell(at_once=True) == []


def test_lost_recordings_are_told_together(scene: Scene) -> None:
    """They cost fields, not events."""
    scene.note(Batch(b""))
    before_ns = scene.time.now_ns
    scene.note(Batch(b"", execs_lost=3))
    assert scene.signals_lost == 0
    scene.note(Batch(b"", execs_lost=5, signals_lost=2))
    noted_ns = scene.time.now_ns
    scene.note(Batch(b"", execs_lost=5, signals_lost=2))
    assert scene.tell() == [
        {
            "lost_where": "recorder",
            "count": 7,
            "since_usec": before_ns // USEC,
            "until_usec": noted_ns // USEC,
            "cpus": None,
        }
    ]
    assert scene.entries[-1][2].startswith("loss: 7 recordings of execs or signals;")
    assert (scene.losses.execs, scene.losses.signals) == (5, 2)
    assert (scene.asked, scene.table.lost_ns, scene.resync_is_wanted()) == (0, 0, False)
    assert scene.tell(at_once=True) == []


def test_each_loss_of_signals_is_handed_on_at_once(scene: Scene) -> None:
    for total, times in ((2, 1), (2, 1), (3, 2)):
        scene.note(Batch(b"", signals_lost=total))
        assert scene.signals_lost == times
    assert [told["count"] for told in scene.tell()] == [3]


def test_entries_that_were_not_written(scene: Scene) -> None:
    """The writer has wall-clock times, the entry has the kernel's."""
    assert scene.tell(Loss(3, 2, 17_000_000, 18_000_000)) == [
        {
            "lost_where": "journal",
            "count": 3,
            "since_usec": 10_000_000,
            "until_usec": 11_000_000,
            "cpus": None,
        }
    ]
    assert not scene.resync_is_wanted()


def test_who_else_speaks_to_the_kernel(scene: Scene) -> None:
    scene.losses.note_strange_ack()
    scene.losses.note_strange_ack()
    scene.losses.tell(None, 0)
    scene.losses.tell(None, 0)
    ((kind, priority, text, fields),) = scene.entries
    assert (kind, priority, fields) == ("listener", DEBUG, {"count": 2})
    assert text.endswith("requests: 2")
    # Another daemon's heartbeat is no news each time.
    scene.losses.note_strange_ack()
    scene.losses.tell(None, 0)
    assert len(scene.entries) == 1
    scene.time.now_ns += int(STRANGE_SECONDS * SECOND)
    scene.losses.tell(None, 0)
    assert scene.entries[1][3] == {"count": 1}


def test_a_blindness_that_begins(scene: Scene) -> None:
    scene.losses.tell_blindness(Blindness(5 * SECOND), 0)
    ((kind, priority, text, fields),) = scene.entries
    assert (kind, priority, fields) == ("blind", WARNING, {"since_usec": 5_000_000})
    assert text.startswith("blind: ")
    # As long as nothing is told, there is nothing to compare with.
    assert not scene.resync_is_wanted()


def test_a_blindness_that_ends(scene: Scene) -> None:
    scene.losses.tell_blindness(Blindness(5 * SECOND, 8 * SECOND), 42)
    ((kind, priority, text, fields),) = scene.entries
    assert (kind, priority) == ("blind", WARNING)
    assert fields == {"count": 42, "since_usec": 5_000_000, "until_usec": 8_000_000}
    assert "within 3s" in text
    assert "3s: 42;" in text
    assert scene.table.lost_ns == 8 * SECOND
    assert scene.resync_is_wanted()
    assert (scene.resync.summary.since_ns, scene.resync.summary.until_ns) == (5 * SECOND, 8 * SECOND)


@pytest.mark.parametrize(
    ("found", "priority"), [((0, 0, 0), NOTICE), ((1, 0, 0), WARNING), ((1, 2, 3), WARNING)]
)
def test_a_resync(scene: Scene, found: tuple[int, int, int], priority: int) -> None:
    scene.losses.tell_resync(Summary(2000, 5000, *found))
    ((kind, told_priority, text, fields),) = scene.entries
    assert (kind, told_priority) == ("resync", priority)
    assert fields == {
        "count": sum(found),
        "appeared": found[0],
        "vanished": found[1],
        "execed": found[2],
        "since_usec": 2,
        "until_usec": 5,
    }
    assert f"began unseen: {found[0]}, ended: {found[1]}, became another program: {found[2]}" in text


def test_what_the_kernel_rejected_is_no_loss(scene: Scene) -> None:
    scene.ledger.set_filter(is_on=True, now_ns=0)
    scene.note(Batch(b""), (0, 1), (0, 9), (1, 1), (1, 20))
    assert scene.tell(at_once=True) == []
    assert (scene.ledger.filtered, scene.ledger.lost, scene.table.lost_ns) == (25, 0, 0)
    assert not scene.resync_is_wanted()


def test_amid_what_was_rejected_a_loss_has_its_time(scene: Scene) -> None:
    """Which CPUs it concerned may be too many; when it was is known by when it was noted."""
    scene.ledger.set_filter(is_on=True, now_ns=0)
    scene.note(Batch(b""), (0, 1), (1, 1), (2, 1))
    scene.note(Batch(b""), (0, 2))
    before_ns = scene.time.now_ns
    scene.note(Batch(b"", kernel_drops=3), (0, 10), (1, 4), (2, 2))
    (told,) = scene.tell()
    assert (told["count"], told["cpus"]) == (3, "0-1")
    assert told["since_usec"] == before_ns // USEC
    assert int(str(told["until_usec"])) <= scene.time.now_ns // USEC
    assert (scene.ledger.filtered, scene.ledger.lost) == (6, 3)
    assert scene.resync_is_wanted()
    assert scene.resync.summary.since_ns == before_ns
    # From here on there is none.
    scene.note(Batch(b"", kernel_drops=3), (2, 9))
    assert scene.tell(at_once=True) == []


def test_lost_records_are_looked_for_where_they_alone_tell_ends(scene: Scene) -> None:
    scene.note(Batch(b"", records_lost=2), (0, 1))
    assert not scene.resync_is_wanted()
    scene.ends.configure(follows_threads=False, has_all_tasks=False, now_ns=scene.time.now_ns)
    scene.note(Batch(b"", records_lost=2), (0, 2))
    assert not scene.resync_is_wanted()
    scene.note(Batch(b"", records_lost=3), (0, 3))
    assert scene.resync_is_wanted()


def test_so_are_those_that_cannot_be_read(scene: Scene) -> None:
    scene.ends.configure(follows_threads=False, has_all_tasks=False, now_ns=scene.time.now_ns)
    scene.losses.note_unreadable(0)
    assert not scene.resync_is_wanted()
    scene.losses.note_unreadable(1)
    assert scene.resync_is_wanted()
