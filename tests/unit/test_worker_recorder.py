# SPDX-License-Identifier: MIT
"""What a worker makes of recordings: the whole way from a batch that has them to entries."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import hashlib
import itertools
import os
import sys
from collections import deque
from pathlib import Path
from typing import Any

import pytest

from procwatchd.kernel import wire
from procwatchd.kernel.bell import Bell
from procwatchd.kernel.clock import NS_PER_TICK
from procwatchd.kernel.queue import Batch, BatchQueue
from procwatchd.kernel.recorder import Recordings
from procwatchd.kernel.recording import BLOCKED, TO_GROUP
from procwatchd.kernel.wire import RawEvent
from procwatchd.process.hand import Hand
from procwatchd.process.procfs import Reader, Reading, Wants
from procwatchd.process.recorded import Recorded
from procwatchd.worker import Worker
from tests.unit import test_kills
from tests.unit.fakeproc import FakeProc
from tests.unit.test_recording import Made
from tests.unit.test_worker import StillClock, World, once_hashed

FORK, EXEC, EXIT = wire.FORK, wire.EXEC, wire.EXIT
PID = 42
SIGTERM, SIGKILL = 15, 9

RSYNC = Made(
    comm=b"rsync",
    filename=b"./rsync\0",
    exe=b"rsync\0bin\0usr\0",
    cwd=b"srv\0",
    argv=b"rsync\0-a\0/my files\0",
    tgid=PID,
    sid=7,
)


def at(tick: int, usec: int = 5) -> int:
    """A time within a tick; events are at 5 µs, but for FORKs, which are at 1 µs."""
    return tick * NS_PER_TICK + 1000 * usec


class QuietBell(Bell):
    """Rings for what a test puts into it."""

    def __init__(self) -> None:
        self.rung: deque[RawEvent] = deque()
        self._read, self._write = os.pipe()

    def fileno(self) -> int:
        return self._read

    def hear(self) -> RawEvent | None:
        return self.rung.popleft() if self.rung else None

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)


class RecordedWorld(World):
    """A world with a recorder."""

    def start(self, yaml: str) -> None:
        self.bells: list[QuietBell] = []
        self.worker = Worker(
            self.config(yaml),
            BatchQueue(),
            self.writer,
            StillClock(),
            self.users,
            open_bell=self.open_bell,
            is_recording=True,
            proc=str(self.proc.root),
        )
        self.worker.scan()

    def open_bell(self) -> QuietBell:
        self.bells.append(QuietBell())
        return self.bells[-1]

    def record(
        self,
        *events: tuple[int, ...],
        execs: tuple[Made, ...] = (),
        signals: tuple[bytes, ...] = (),
        tick: int = 100,
        queue_lost: int = 0,
        execs_lost: int = 0,
        signals_lost: int = 0,
    ) -> list[dict[str, Any]]:
        """A batch with these events, as in `send`, and these recordings; gives the new entries' fields."""
        before = len(self.writer.entries)
        datagrams = b"".join(
            wire.encode_event(what, *ids, timestamp_ns=at(tick, 1 if what == FORK else 5), seq=next(self.seq))
            for what, *ids in events
        )
        recordings = Recordings([made.item() for made in execs], list(signals))
        batch = Batch(datagrams, recordings=recordings, queue_lost=queue_lost)
        batch.execs_lost, batch.signals_lost = execs_lost, signals_lost
        self.worker.take_in([batch])
        self.worker.conclude()
        return [entry.fields for entry in self.writer.entries[before:]]


@pytest.fixture
def world(tmp_path: Path) -> RecordedWorld:
    return RecordedWorld(tmp_path)


def recorded(made: Made = RSYNC, *, tick: int = 100, start: int = 100) -> Made:
    """A recording from just before the events of a tick."""
    return dataclasses.replace(made, ns=at(tick, 4), start_ns=start * NS_PER_TICK)


BORN = ((FORK, 1, 1, PID, PID), (EXEC, PID, PID))


def test_an_exec_that_was_recorded_and_its_exit(world: RecordedWorld) -> None:
    """There is nothing in /proc any more, and nothing is missing."""
    world.start("log: {fields: all}")
    (execed,) = world.record(*BORN, execs=(recorded(),))
    assert execed["MESSAGE"] == "exec rsync[42] root: rsync -a '/my files' (systemd[1] prog.service)"
    expected: dict[str, object] = {
        "SOURCE": "recorder",
        "IDENTITY": "same",
        "FILENAME": b"./rsync",
        "EXE": b"/usr/bin/rsync",
        "CWD": b"/srv",
        "CMDLINE": "rsync -a '/my files'",
        "SID": "7",
        "UNIT": b"prog.service",
        "PROCESS_ID": "42-100",
        "UID": "0",
    }
    assert {name: execed[f"PROCWATCH_{name}"] for name in expected} == expected
    assert "PROCWATCH_LAG_USEC" not in execed
    (ended,) = world.record((EXIT, PID, PID, 3 << 8))
    assert (ended["PROCWATCH_SOURCE"], ended["PROCWATCH_CMDLINE"]) == ("table", "rsync -a '/my files'")
    assert "PROCWATCH_FILENAME" not in ended
    assert not world.bells


def test_an_exec_that_was_not_recorded_is_read(world: RecordedWorld) -> None:
    world.start("log: {fields: all}")
    world.proc.add(PID, comm=b"rsync", exe="/usr/bin/rsync", cmdline=b"rsync\0", start=100)
    (execed,) = world.record(*BORN)
    assert (execed["PROCWATCH_SOURCE"], execed["PROCWATCH_CMDLINE"]) == ("proc", "rsync")
    assert "PROCWATCH_LAG_USEC" in execed
    assert "PROCWATCH_FILENAME" not in execed
    assert world.worker.more_terms(None)["RECORDER_LOST"] == 1


def test_what_is_not_of_the_image_is_never_told(world: RecordedWorld) -> None:
    (execed,) = world.record(*BORN, execs=(recorded(tick=99, start=90),))
    assert (execed["PROCWATCH_IDENTITY"], execed["PROCWATCH_SOURCE"]) == ("unknown", "none")
    assert not {"PROCWATCH_COMM", "PROCWATCH_EXE", "PROCWATCH_CMDLINE", "PROCWATCH_FILENAME"} & set(execed)


def test_rules_see_what_was_recorded(world: RecordedWorld) -> None:
    world.start(
        "rules: [{name: one, match: {filename: ./rsync, cmdline|contains: '/my f'}},"
        " {name: no, match: {pid|gt: 0}, action: drop}]"
    )
    (execed,) = world.record(*BORN, execs=(recorded(),))
    assert execed["PROCWATCH_RULE"] == "one"


def open_files() -> int:
    """How many there are; what earlier tests left to the garbage collector is none."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def test_environment_and_hash_are_read_beside(world: RecordedWorld) -> None:
    """For these alone there is a bell."""
    world.start("capture: {hash: sha256, environment: [LANG]}")
    world.proc.add(PID, exe=sys.executable, cmdline=b"other\0", start=100)
    world.record(*BORN, execs=(recorded(),))
    ticks = itertools.count(101)
    execed = once_hashed(
        lambda: world.record((EXEC, PID, PID), execs=(recorded(tick=next(ticks)),), tick=next(ticks))
    )
    assert execed["PROCWATCH_ENV_LANG"] == b"C"
    assert execed["PROCWATCH_SHA256"] == hashlib.sha256(Path(sys.executable).read_bytes()).hexdigest()
    assert (execed["PROCWATCH_SOURCE"], execed["PROCWATCH_CMDLINE"]) == ("recorder", "rsync -a '/my files'")
    assert len(world.bells) == 1
    world.worker.close()


def test_of_who_is_gone_they_are_absent(world: RecordedWorld) -> None:
    world.start("capture: {hash: sha256, environment: [LANG]}")
    (execed,) = world.record(*BORN, execs=(recorded(),))
    world.proc.add(43, start=300)
    (other,) = world.record(
        (FORK, 1, 1, 43, 43), (EXEC, 43, 43), execs=(recorded(dataclasses.replace(RSYNC, tgid=43)),)
    )
    for entry in (execed, other):
        assert entry["PROCWATCH_SOURCE"] == "recorder"
        assert not {"PROCWATCH_ENV_LANG", "PROCWATCH_SHA256"} & set(entry)
        assert entry["PROCWATCH_HASH_LATE"] == "1"
    world.worker.close()


def test_a_bell_is_there_while_it_is_needed(world: RecordedWorld) -> None:
    world.worker.configure(world.config("capture: {environment: [LANG]}"))
    assert len(world.bells) == 1
    world.worker.configure(world.config("{}"))
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(world.bells[0].fileno())


def test_what_was_read_too_late_is_taken_back(tmp_path: Path) -> None:
    """Also of a batch that was at hand already when the one before it was concluded."""
    proc = FakeProc(tmp_path / "proc")
    proc.add(PID, exe="/usr/bin/rsync", start=100)
    reader = Reader(Wants(checksum=True, environment=(b"LANG",)), proc=str(proc.root))
    hand = Hand(reader, Recorded(reader), own_pid=1)
    before = open_files()
    with contextlib.closing(QuietBell()) as bell:
        hand.bell = bell
        exits = wire.decode(wire.encode_event(EXIT, 99, 99, timestamp_ns=at(99)))[0]
        execs = [
            wire.decode(wire.encode_event(EXEC, PID, PID, timestamp_ns=at(tick)))[0] for tick in (100, 101)
        ]
        hand.take_in(exits, [], is_behind=False)
        hand.take_in(execs[0], [recorded().item()], is_behind=False)
        hand.play(1)
        hand.take_in(execs[1], [recorded(tick=101).item()], is_behind=True)
        _events, outcomes = hand.play(1)
    first = outcomes[0]
    assert isinstance(first, Reading)
    assert first.is_recorded
    assert (first.environment, first.checksum) == (None, None)
    assert open_files() == before


def killed(
    world: RecordedWorld, *signals: bytes, status: int = SIGTERM, signals_lost: int = 0
) -> dict[str, Any]:
    """The entry on the end of a process, after these signals."""
    world.record(*BORN, execs=(recorded(),))
    (ended,) = world.record((EXIT, PID, PID, status), signals=signals, tick=101, signals_lost=signals_lost)
    return ended


def signal_from(sender: int, number: int = SIGTERM, flags: int = TO_GROUP, **more: Any) -> bytes:
    more = {"sender_start": 1, "ns": at(101, 1), **more}
    return test_kills.item(sender, number, flags, **more)


KILLER = ("KILLER_PID", "KILLER_COMM", "KILLER_EXE", "KILLER_UID", "OOM_KILLED")


def told(entry: dict[str, Any]) -> dict[str, object]:
    return {name: entry[f"PROCWATCH_{name}"] for name in KILLER if f"PROCWATCH_{name}" in entry}


def test_who_killed_it(world: RecordedWorld) -> None:
    ended = killed(world, signal_from(1, comm=b"systemd", uid=0))
    assert told(ended) == {
        "KILLER_PID": "1",
        "KILLER_COMM": b"systemd",
        "KILLER_EXE": b"/usr/lib/systemd/systemd",
        "KILLER_UID": "0",
    }
    assert "killed by SIGTERM from systemd[1] after" in ended["MESSAGE"]


@pytest.mark.parametrize(
    ("signals", "status", "end"),
    [
        ([signal_from(812, SIGKILL, comm=b"systemd-oomd")], SIGKILL, "SIGKILL from systemd-oomd[812] after"),
        ([signal_from(PID, sender_start=100)], SIGTERM, "SIGTERM from itself after"),
        ([signal_from(812)], SIGTERM | 0x80, "SIGTERM from killer[812], core dumped after"),
        (
            [signal_from(0, SIGKILL), test_kills.victim(ns=at(101, 2))],
            SIGKILL,
            "SIGKILL from the kernel, which was out of memory after",
        ),
        ([], SIGKILL, "SIGKILL after"),
        ([signal_from(0)], SIGTERM, "SIGTERM after"),
        (
            [signal_from(812, comm=b"evil[1]\n\x1b\xff")],
            SIGTERM,
            r"SIGTERM from evil\x5b1]\x0a\x1b\xff[812] after",
        ),
        ([signal_from(812, comm=b"")], SIGTERM, "SIGTERM from [812] after"),
    ],
)
def test_how_it_is_said(world: RecordedWorld, signals: list[bytes], status: int, end: str) -> None:
    message = killed(world, *signals, status=status)["MESSAGE"]
    assert message.startswith(f"exit rsync[42] root: killed by {end}")
    assert message.isprintable()


def test_a_killers_name_is_kept_byte_by_byte(world: RecordedWorld) -> None:
    assert told(killed(world, signal_from(812, comm=b") R 1 (\n\xff")))["KILLER_COMM"] == b") R 1 (\n\xff"


def test_the_oom_killer_is_marked(world: RecordedWorld) -> None:
    ended = killed(world, signal_from(0, SIGKILL), test_kills.victim(ns=at(101, 2)), status=SIGKILL)
    assert told(ended) == {"OOM_KILLED": "1"}


def test_who_ends_by_itself_was_killed_by_nobody(world: RecordedWorld) -> None:
    blocked = signal_from(1, SIGTERM, BLOCKED | TO_GROUP)
    assert told(killed(world, blocked, status=3 << 8)) == {}
    # Nor is that signal anything to the next one with its PID.
    assert told(killed(world)) == {}


def test_a_signal_from_after_its_end_is_none_of_its_own(world: RecordedWorld) -> None:
    assert told(killed(world, signal_from(1, ns=at(101, 6)))) == {}


def test_rules_know_the_killer(world: RecordedWorld) -> None:
    world.start(
        "rules: [{name: ours, match: {killer-comm: systemd, killer-uid: 0, killer-exe|endswith: /systemd}},"
        " {name: no, match: {pid|gt: 0}, action: drop}]"
    )
    world.record(*BORN, execs=(recorded(),))
    signal = signal_from(1, comm=b"systemd", uid=0)
    (ended,) = world.record((EXIT, PID, PID, SIGTERM), signals=(signal,), tick=101)
    assert ended["PROCWATCH_RULE"] == "ours"


def test_where_exits_are_no_ones_need_signals_are_forgotten(world: RecordedWorld) -> None:
    world.start("capture: {events: [exec]}")
    world.record(*BORN, execs=(recorded(),))
    world.record((EXIT, PID, PID, SIGTERM), signals=(signal_from(1),), tick=101)
    assert not world.worker._kills._of_process


def test_where_signals_were_lost_nobody_is_named(world: RecordedWorld) -> None:
    """One that came with the same batch may have been followed by one that was lost."""
    before = signal_from(1, SIGTERM, BLOCKED | TO_GROUP)
    assert told(killed(world, before, signals_lost=1)) == {}
    assert world.worker.more_terms(None)["RECORDER_LOST"] == 1
    # What comes later is of use again.
    assert told(killed(world, signal_from(1), signals_lost=1))["KILLER_PID"] == "1"


def test_where_execs_and_recordings_were_lost_no_other_execs_is_told(world: RecordedWorld) -> None:
    """The queue had no room for a batch with the EXEC of what waits, and the recording of the next one."""
    world.record((FORK, 1, 1, PID, PID))
    world.record(execs=(recorded(tick=101),), tick=101)
    (execed,) = world.record((EXEC, PID, PID), tick=103, queue_lost=1, execs_lost=1)
    assert execed["PROCWATCH_IDENTITY"] != "same"
    assert "PROCWATCH_CMDLINE" not in execed


def test_recordings_that_are_no_recordings_cost_nothing(world: RecordedWorld) -> None:
    batch = Batch(b"", recordings=Recordings([b"", b"x" * 104], [b"", b"x" * 72]))
    world.worker.take_in([batch])
    world.worker.conclude()
    assert world.writer.entries == []
    assert world.worker.more_terms(None)["FAILURES"] == 0


def test_who_works_without_its_thread_goes_on_as_they_are(world: RecordedWorld) -> None:
    """Though there is a bell to race for: real time would be everybody's whom they start, too."""
    world.start("{capture: {hash: sha256}}")
    assert world.bells
    world.record((FORK, 1, 1, PID, PID), (EXEC, PID, PID), execs=(recorded(),))
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
