# SPDX-License-Identifier: MIT
"""The whole way of an event, from datagrams and a /proc of the test's own to entries."""

from __future__ import annotations

import hashlib
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

import pytest

from procwatchd.config import Config, load_config
from procwatchd.journal.entry import Entry
from procwatchd.journal.message import duration
from procwatchd.journal.writer import Loss
from procwatchd.kernel import taskstats, wire
from procwatchd.kernel.accounting import Accounting
from procwatchd.kernel.clock import NS_PER_TICK, Clock
from procwatchd.kernel.connector import Connector
from procwatchd.kernel.filter import Needs
from procwatchd.kernel.marks import Marks
from procwatchd.kernel.queue import Batch, BatchQueue
from procwatchd.kernel.taskstats import TaskEnd
from procwatchd.process import resync as resync_module
from procwatchd.process.executables import HASHED_BYTES
from procwatchd.process.users import Users
from procwatchd.rules.detection import DETECTIONS_LIMIT
from procwatchd.worker import Worker, needs
from tests.unit.fakeproc import FakeProc
from tests.unit.test_clock import SECOND, FakeTime
from tests.unit.test_ends import record

FORK, EXEC, EXIT, UID, GID = wire.FORK, wire.EXEC, wire.EXIT, wire.UID, wire.GID
SID, PTRACE, COMM, COREDUMP = wire.SID, wire.PTRACE, wire.COMM, wire.COREDUMP


class ListWriter:
    """A writer that keeps what it is given."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.held_events = self.unwritten_events = 0
        self.loss: Loss | None = None
        self.broken = False

    @property
    def written_events(self) -> int:
        return sum(entry.events for entry in self.entries)

    def write(self, entry: Entry) -> None:
        self.entries.append(entry)
        if entry.on_written is not None:
            entry.on_written()

    def flush(self) -> None: ...

    def wait(self, timeout_seconds: float) -> bool:
        return timeout_seconds >= 0

    def take_loss(self) -> Loss | None:
        loss, self.loss = self.loss, None
        return loss

    def close(self) -> None: ...


def once_hashed(send: Callable[[], list[dict[str, Any]]]) -> dict[str, Any]:
    """The entry that this sends an event for, once its checksum is not late any more."""
    deadline = time.monotonic() + 20
    while "PROCWATCH_HASH_LATE" in (entry := send()[0]):
        assert time.monotonic() < deadline, "there is none"
    return entry


class StillClock(Clock):
    """Nothing was ever suspended, and the wall clock began with the machine."""

    def refresh(self) -> None:
        self.realtime_offset_ns = 0


class World:
    """A worker, its /proc, and the kernel that sends it events."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.proc = FakeProc(directory / "proc")
        self.writer = ListWriter()
        passwd = directory / "passwd"
        passwd.write_text("root:x:0:0::/:/bin/sh\nann:x:1000:1000::/:/bin/sh\n")
        self.users = Users(lambda _uid: None, passwd_path=str(passwd))
        self.seq = itertools.count()
        self.start("{}")

    def start(self, yaml: str) -> None:
        self.worker = Worker(
            self.config(yaml), BatchQueue(), self.writer, StillClock(), self.users, proc=str(self.proc.root)
        )
        self.worker.scan()

    def config(self, yaml: str) -> Config:
        path = self.directory / "procwatchd.yaml"
        path.write_text(yaml)
        return load_config(str(path))

    def send(
        self,
        *events: tuple[int, ...],
        tick: int = 100,
        records: Iterable[TaskEnd] = (),
        kernel_drops: int = 0,
        queue_lost: int = 0,
    ) -> list[dict[str, Any]]:
        """Events as (what, ids…), one batch, with these records and totals; gives the new entries' fields."""
        before = len(self.writer.entries)
        datagrams = b"".join(
            wire.encode_event(what, *ids, timestamp_ns=tick * NS_PER_TICK + 5000, seq=next(self.seq))
            for what, *ids in events
        )
        messages = b"".join(map(taskstats.encode, records))
        self.worker.take_in(
            [Batch(datagrams, kernel_drops=kernel_drops, queue_lost=queue_lost, records=messages)]
        )
        self.worker.conclude()
        return [entry.fields for entry in self.writer.entries[before:]]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_what_each_rule_decided_is_counted(world: World) -> None:
    world.start("capture: {events: [exec, exit]}\nrules: [{name: quiet, match: {event: exit}, action: drop}]")
    world.proc.add(42, **RSYNC)  # type: ignore[arg-type]
    world.send((FORK, 1, 1, 42, 42), (EXEC, 42, 42), (EXIT, 42, 42, 0, 17, 1, 1))
    world.send((FORK, 1, 1, 43, 43), (EXIT, 43, 43, 0, 17, 1, 1))
    assert world.worker.decided() == {(None, "log"): 1, ("quiet", "drop"): 2}


RSYNC = {
    "comm": b"rsync",
    "exe": "/usr/bin/rsync",
    "cmdline": b"rsync\0-a\0/my files\0",
    "start": 100,
}


def test_an_exec_and_its_exit(world: World) -> None:
    world.start("log: {fields: all}")
    world.proc.add(42, **RSYNC, ppid=7, loginuid=1000, tty=136 << 8 | 3, mounts=1)  # type: ignore[arg-type]
    (execed,) = world.send((FORK, 1, 1, 42, 42), (EXEC, 42, 42))
    lag = execed.pop("PROCWATCH_LAG_USEC")
    assert int(lag) >= 0
    of_process = {
        "PROCWATCH_PID": "42",
        "PROCWATCH_PPID": "1",
        "PROCWATCH_PROCESS_ID": "42-100",
        "PROCWATCH_PARENT_PROCESS_ID": "1-1",
        "PROCWATCH_COMM": b"rsync",
        "PROCWATCH_EXE": b"/usr/bin/rsync",
        "PROCWATCH_CWD": b"/srv",
        "PROCWATCH_TTY": "pts/3",
        "PROCWATCH_CMDLINE": "rsync -a '/my files'",
        "PROCWATCH_UID": "0",
        "PROCWATCH_EUID": "0",
        "PROCWATCH_GID": "0",
        "PROCWATCH_EGID": "0",
        "PROCWATCH_USER": "root",
        "PROCWATCH_LOGINUID": "1000",
        "PROCWATCH_AUDIT_SESSION": "1000",
        "PROCWATCH_SID": "42",
        "PROCWATCH_CGROUP": b"/system.slice/prog.service",
        "PROCWATCH_UNIT": b"prog.service",
        "PROCWATCH_SLICE": b"system.slice",
        "PROCWATCH_MOUNT_NAMESPACE": "1",
        "PROCWATCH_PARENT_COMM": b"systemd",
        "PROCWATCH_PARENT_EXE": b"/usr/lib/systemd/systemd",
        "PROCWATCH_PARENT_CMDLINE": "/sbin/init",
        "PROCWATCH_ANCESTORS": b"systemd[1]",
        "PROCWATCH_IDENTITY": "same",
        "SYSLOG_IDENTIFIER": "procwatchd",
        "PRIORITY": "6",
        "PROCWATCH_MONOTONIC_USEC": str((100 * NS_PER_TICK + 5000) // 1000),
    }
    assert execed == of_process | {
        "MESSAGE": "exec rsync[42] root: rsync -a '/my files' (systemd[1] prog.service)",
        "MESSAGE_ID": "7f71ee63fc0b4a648c5176899e07eda0",
        "PROCWATCH_EVENT": "exec",
        "PROCWATCH_SOURCE": "proc",
    }
    (ended,) = world.send((EXIT, 42, 42, 3 << 8, 17, 1, 1))
    assert ended == of_process | {
        "MESSAGE": "exit rsync[42] root: code 3 after 0us: rsync -a '/my files' (systemd[1] prog.service)",
        "MESSAGE_ID": "9d1c2f0569734d0aae840e0b948961ac",
        "PROCWATCH_EVENT": "exit",
        "PROCWATCH_SOURCE": "table",
        "PROCWATCH_EXIT_CODE": "3",
        "PROCWATCH_EXIT_SOURCE": "connector",
        "PROCWATCH_DURATION_USEC": "0",
    }


def test_standard_fields_leave_out_what_says_nothing_new(world: World) -> None:
    world.proc.add(42, **RSYNC, loginuid=1000)  # type: ignore[arg-type]
    (execed,) = world.send((FORK, 1, 1, 42, 42), (EXEC, 42, 42))
    for name in ("LAG_USEC", "AUDIT_SESSION", "SID", "EGID", "ARGV_BYTES", "EUID", "GID"):
        assert f"PROCWATCH_{name}" not in execed
    changed = world.send((UID, 42, 42, 0, 1000), (GID, 42, 42, 1000, 1000))
    assert changed[0]["PROCWATCH_EUID"] == "1000"
    assert changed[1]["PROCWATCH_GID"] == "1000"


def test_a_list_of_fields(world: World) -> None:
    world.start("log: {fields: [exe, rule]}\nrules: [{name: all, match: {pid|gt: 0}}]")
    world.proc.add(42, **RSYNC)  # type: ignore[arg-type]
    (execed,) = world.send((EXEC, 42, 42))
    names = {name for name in execed if name.startswith("PROCWATCH_")}
    assert names == {"PROCWATCH_EVENT", "PROCWATCH_PID", "PROCWATCH_EXE", "PROCWATCH_RULE"}


def test_messages(world: World) -> None:
    world.start("capture: {events: all}")
    world.proc.add(42, **RSYNC)  # type: ignore[arg-type]
    entries = world.send((FORK, 1, 1, 42, 42), (EXEC, 42, 42))
    entries += world.send(
        (FORK, 42, 42, 43, 43),
        (UID, 43, 43, 1000, 1000),
        (UID, 43, 43, 1000, 1000),
        (GID, 43, 43, 0, 1000),
        (SID, 43, 43),
        (PTRACE, 43, 43, 1, 1),
        (PTRACE, 43, 43, 0, 0),
        (COMM, 43, 43, *(int.from_bytes(b"ne\nw", "little"), 0, 0, 0)),
        (COREDUMP, 43, 43, 42, 42),
        (EXIT, 43, 43, 0x8B, 17, 42, 42),
        (EXIT, 42, 42, 15, 17, 1, 1),
    )
    fork = ": fork of rsync -a '/my files' (rsync[42] prog.service)"
    assert [entry["MESSAGE"] for entry in entries] == [
        "fork systemd[42] root: new process: fork of /sbin/init (systemd[1] prog.service)",
        "exec rsync[42] root: rsync -a '/my files' (systemd[1] prog.service)",
        f"fork rsync[43] root: new process{fork}",
        f"uid rsync[43] ann: uid 0 to 1000{fork}",
        f"gid rsync[43] ann: effective gid 0 to 1000{fork}",
        f"sid rsync[43] ann: new session 43{fork}",
        f"ptrace rsync[43] ann: traced by systemd[1] root{fork}",
        f"ptrace rsync[43] ann: no longer traced{fork}",
        f"comm ne\\x0aw[43] ann: was rsync{fork}",
        f"coredump ne\\x0aw[43] ann: dumps core{fork}",
        f"exit ne\\x0aw[43] ann: killed by SIGSEGV, core dumped after 0us{fork}",
        "exit rsync[42] root: killed by SIGTERM after 0us: rsync -a '/my files' (systemd[1] prog.service)",
    ]
    by_event = {str(entry["PROCWATCH_EVENT"]): entry for entry in entries}
    assert by_event["uid"]["PROCWATCH_OLD_UID"] == "0"
    assert by_event["uid"]["PROCWATCH_UID"] == "1000"
    assert by_event["gid"]["PROCWATCH_OLD_EGID"] == "0"
    assert by_event["comm"]["PROCWATCH_OLD_COMM"] == b"rsync"
    assert by_event["comm"]["PROCWATCH_COMM"] == b"ne\nw"
    assert by_event["exit"]["PROCWATCH_EXIT_SIGNAL"] == "SIGTERM"
    assert "PROCWATCH_TRACER_PID" not in by_event["ptrace"]
    assert entries[6]["PROCWATCH_TRACER_PID"] == "1"
    assert entries[6]["PROCWATCH_TRACER_EXE"] == b"/usr/lib/systemd/systemd"
    assert entries[10]["PROCWATCH_CORE_DUMPED"] == "1"
    assert entries[10]["PROCWATCH_SOURCE"] == "inherited"
    assert all("OLD_UID" not in name for name in by_event["gid"])


def test_a_setuid_programs_ids_are_its_own(world: World) -> None:
    world.proc.add(42, comm=b"su", exe="/usr/bin/su", cmdline=b"su\0", start=100)
    world.send((FORK, 1, 1, 42, 42), (UID, 42, 42, 1000, 1000), (GID, 42, 42, 1000, 1000))
    entries = world.send((UID, 42, 42, 1000, 0), (GID, 42, 42, 1000, 0), (EXEC, 42, 42), (UID, 42, 42, 0, 0))
    assert [(entry["PROCWATCH_EVENT"], entry["PROCWATCH_EXE"]) for entry in entries] == [
        ("exec", b"/usr/bin/su"),
        ("uid", b"/usr/bin/su"),
        ("gid", b"/usr/bin/su"),
        ("uid", b"/usr/bin/su"),
    ]
    assert [entry["PROCWATCH_EUID"] for entry in entries[:2]] == ["0", "0"]
    assert (entries[1]["PROCWATCH_OLD_EUID"], entries[1]["PROCWATCH_IDENTITY"]) == ("1000", "same")
    # Who sets its own ids and then runs another program has set its own.
    changed = world.send((UID, 42, 42, 5, 5), (EXEC, 42, 42))
    assert [entry["PROCWATCH_EVENT"] for entry in changed] == ["uid", "exec"]
    terms = world.worker.terms()
    assert (terms["RECEIVED"], terms["LOGGED"], terms["UNNEEDED"], terms["PENDING"]) == (9, 8, 1, 0)


def test_what_cannot_be_read_is_absent_and_said(world: World) -> None:
    world.proc.add(43, comm=b"other", start=900)
    execs = world.send((FORK, 1, 1, 42, 42), (EXEC, 42, 42), (FORK, 1, 1, 43, 43), (EXEC, 43, 43))
    execs += world.send((FORK, 1, 1, 44, 44), (EXEC, 44, 44), (EXEC, 44, 44))
    assert [(e["PROCWATCH_IDENTITY"], e["PROCWATCH_SOURCE"]) for e in execs] == [
        ("gone", "none"),
        ("reused", "none"),
        ("unknown", "none"),
        ("gone", "none"),
    ]
    for entry in execs:
        assert not {"PROCWATCH_COMM", "PROCWATCH_EXE", "PROCWATCH_CMDLINE"} & set(entry)
        assert entry["PROCWATCH_PARENT_COMM"] == b"systemd"
    assert (
        execs[0]["MESSAGE"]
        == "exec ?[42] root: it had ended before its arguments could be read (systemd[1] prog.service)"
    )


def test_long_arguments_are_cut_and_marked(world: World) -> None:
    world.start("log: {fields: all, max-argv: 256}")
    world.proc.add(42, cmdline=b"prog\0" + b"x" * 5000 + b"\0" + b"last\0")
    (execed,) = world.send((EXEC, 42, 42))
    assert (execed["PROCWATCH_ARGV_TRUNCATED"], execed["PROCWATCH_ARGV_BYTES"]) == ("1", "5011")
    assert execed["PROCWATCH_CMDLINE"].startswith("prog xxx")
    assert execed["PROCWATCH_CMDLINE"].endswith("x last")
    assert len(execed["PROCWATCH_CMDLINE"]) < 300
    (ended,) = world.send((EXIT, 42, 42, 0))
    assert ended["PROCWATCH_CMDLINE"] == execed["PROCWATCH_CMDLINE"]


def test_threads_are_events_only_when_asked_for(world: World) -> None:
    life = [(FORK, 1, 1, 42, 42), (FORK, 1, 1, 43, 42), (EXIT, 42, 42, 0), (EXIT, 43, 42, 5 << 8)]
    world.start("capture: {events: [fork, exit]}")
    entries = world.send(*life)
    assert [(e["PROCWATCH_EVENT"], e.get("PROCWATCH_TID")) for e in entries] == [
        ("fork", None),
        ("exit", None),
    ]
    assert entries[1]["PROCWATCH_EXIT_CODE"] == "5"
    world.start("capture: {events: [fork, exit], threads: on}")
    entries = world.send(*life)
    assert [(e["PROCWATCH_EVENT"], e.get("PROCWATCH_TID")) for e in entries] == [
        ("fork", None),
        ("fork", "43"),
        ("exit", "42"),
        ("exit", None),
    ]


def test_what_a_process_took(world: World) -> None:
    world.start("log: {fields: all}")
    world.proc.add(42, **RSYNC)  # type: ignore[arg-type]
    world.send((FORK, 1, 1, 42, 42), (EXEC, 42, 42))
    taken = record(42, 3 << 8, comm=b"rsync", uid=1000, gid=1000, cpu_ns=1_500_000)
    (ended,) = world.send((EXIT, 42, 42, 3 << 8, 17, 1, 1), records=[taken])
    assert ended["MESSAGE"].startswith("exit rsync[42] ann: code 3 after 20us: rsync")
    names = ("EXIT_CODE", "EXIT_SOURCE", "DURATION_USEC", "CPU_USEC", "MEMORY_PEAK", "IO_READ_BYTES")
    assert [ended[f"PROCWATCH_{name}"] for name in names] == ["3", "taskstats", "20", "1500", "4096", "100"]
    assert ended["PROCWATCH_IO_WRITE_BYTES"] == "1000"


def test_our_own_process_is_no_event(world: World) -> None:
    own = os.getpid()
    world.start("capture: {events: all, threads: on}")
    assert world.send((FORK, 1, 1, own + 1, own), (EXIT, own + 1, own, 0), (UID, own, own, 5, 5)) == []
    assert world.worker.ledger.unneeded == 3


def test_environment_and_hash_where_asked_for(world: World) -> None:
    world.start("capture: {hash: sha256, environment: [LANG, NONE]}")
    world.proc.add(42, exe=sys.executable)
    execed = once_hashed(lambda: world.send((EXEC, 42, 42)))
    assert execed["PROCWATCH_ENV_LANG"] == b"C"
    assert "PROCWATCH_ENV_NONE" not in execed
    assert execed["PROCWATCH_SHA256"] == hashlib.sha256(Path(sys.executable).read_bytes()).hexdigest()
    world.worker.close()


def test_a_checksum_that_comes_too_late_is_marked(world: World) -> None:
    program = world.directory / "program"
    program.touch()
    os.truncate(program, HASHED_BYTES)
    world.start("capture: {hash: sha256}")
    world.proc.add(42, exe=str(program))
    (late,) = world.send((EXEC, 42, 42))
    (gone,) = world.send((EXEC, 43, 43))
    os.truncate(program, HASHED_BYTES + 1)
    (too_big,) = world.send((EXEC, 42, 42))
    for entry in (late, gone, too_big):
        assert "PROCWATCH_SHA256" not in entry
        assert entry.get("PROCWATCH_HASH_LATE") == (None if entry is too_big else "1")
    assert world.worker.more_terms(None)["HASHES_SKIPPED"] == 1
    world.worker.close()
    world.start("{}")
    (unhashed,) = world.send((EXEC, 44, 44))
    assert "PROCWATCH_HASH_LATE" not in unhashed


def test_rules_decide(world: World) -> None:
    world.start(
        """
rules:
  - {name: noise, match: {event: exit, exit-code: 0}, action: drop}
  - {name: mark, match: {uid: 0}, action: tag, tags: [root], fields: {TICKET: OPS-7}}
  - {name: bad, match: {event: exit, tags: root}, priority: err, message: "{comm} {tags} {rule} {parent.pid}{tty}!"}
"""
    )
    world.proc.add(42, **RSYNC)  # type: ignore[arg-type]
    assert world.send((FORK, 1, 1, 41, 41), (EXIT, 41, 41, 0)) == []
    execed, ended = world.send((FORK, 1, 1, 42, 42), (EXEC, 42, 42)) + world.send((EXIT, 42, 42, 9))
    assert (execed["PROCWATCH_TAGS"], execed["PROCWATCH_TICKET"]) == ("root", "OPS-7")
    assert "PROCWATCH_RULE" not in execed
    assert (ended["PRIORITY"], ended["PROCWATCH_RULE"]) == ("3", "bad")
    assert ended["MESSAGE"] == "rsync root bad 1!"
    assert world.worker.ledger.dropped == 1


@pytest.mark.parametrize("silence", ["action: drop", "action: count", "limit: 1/h"])
def test_a_detection_is_never_silenced(world: World, silence: str) -> None:
    sigma = world.directory / "sigma"
    sigma.mkdir()
    for number in range(DETECTIONS_LIMIT + 1):
        (sigma / f"{number}.yml").write_text(
            f"title: Copies\nid: r{number}\nlevel: high\nlogsource: {{product: linux, category: process_creation}}\n"
            "detection: {selection: {CommandLine|contains: /MY FILES}, condition: selection}\n"
        )
    world.start(
        f"sigma: {{paths: [{sigma}]}}\nlog: {{limit: 1/h}}\n"
        f"rules: [{{name: quiet, match: {{event: exec}}, {silence}}}]"
    )
    world.proc.add(42, **RSYNC)  # type: ignore[arg-type]
    found = [fields for _ in range(3) for fields in world.send((EXEC, 42, 42))]
    assert [fields["PROCWATCH_RULE"] for fields in found] == ["quiet"] * 3
    assert {fields["PRIORITY"] for fields in found} == {"4"}
    assert found[0]["PROCWATCH_SIGMA_ID"][:2] == ["r0", "r1"]
    terms = world.worker.terms()
    assert (terms["CONSIDERED"], terms["LOGGED"]) == (3, 3)
    assert world.worker.more_terms(None)["DETECTIONS_CUT"] == 3


def test_an_error_of_ours_costs_one_event(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    real = world.worker.builder.build

    def build(record: Any, decision: Any) -> Entry:
        if record.process.pid == 41:
            raise RuntimeError("a bug")
        return real(record, decision)

    monkeypatch.setattr(world.worker.builder, "build", build)
    entries = world.send((EXIT, 40, 40, 0), (EXIT, 41, 41, 0), (EXIT, 42, 42, 0))
    assert [entry["PROCWATCH_EVENT"] for entry in entries] == ["exit", "loss", "exit"]
    assert "a bug" in entries[1]["MESSAGE"]
    assert entries[1]["PROCWATCH_LOST_WHERE"] == "worker"
    terms = world.worker.terms()
    assert (terms["RECEIVED"], terms["LOGGED"], terms["UNWRITTEN"], terms["PENDING"]) == (3, 2, 1, 0)


def test_losses_are_told_once_with_their_span(world: World) -> None:
    world.send((EXIT, 40, 40, 0), tick=100)
    world.seq = itertools.count(1 + 5)
    world.send((EXIT, 41, 41, 0), tick=200, kernel_drops=5)
    world.seq = itertools.count(2 + 5 + 11)
    world.send((EXIT, 42, 42, 0), tick=300, kernel_drops=12, queue_lost=4)
    world.writer.loss = Loss(3, 3, 7_000_000, 8_000_000)
    world.worker._once_a_second()
    world.worker._once_a_second()
    losses = [entry.fields for entry in world.writer.entries if entry.fields["PROCWATCH_EVENT"] == "loss"]
    told = [
        tuple(loss[f"PROCWATCH_{name}"] for name in ("LOST_WHERE", "COUNT", "SINCE_USEC", "UNTIL_USEC"))
        for loss in losses
    ]
    assert told == [
        ("kernel", "12", "1000005", "3000005"),
        ("queue", "4", "1000005", "3000005"),
        ("journal", "3", "7000000", "8000000"),
    ]
    assert {loss["PRIORITY"] for loss in losses} == {"4"}
    assert (world.worker.ledger.lost_kernel, world.worker.ledger.lost_queue) == (12, 4)


def test_what_a_resync_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    time = FakeTime(10 * SECOND)
    monkeypatch.setattr(resync_module, "time", time)
    world.proc.add(42, **RSYNC)  # type: ignore[arg-type]
    world.start("{}")
    world.proc.remove(42)
    world.proc.add(43, **RSYNC, ppid=1)  # type: ignore[arg-type]
    world.worker.resync.request(2000, 5000)
    world.worker._step_resync()
    assert world.worker.resync.is_running
    for _ in range(20):
        if world.worker.resync.is_waiting:
            # Any event shows that those before it were worked off.
            time.now_ns += resync_module.SETTLE_NS
            world.send((FORK, 1, 1, 50, 50), (EXIT, 50, 50, 0), tick=time.now_ns // NS_PER_TICK)
        world.worker._step_resync()
    assert not world.worker.resync.is_running
    ended, appeared, told = [e.fields for e in world.writer.entries if e.events == 0]
    assert (ended["PROCWATCH_EVENT"], ended["PROCWATCH_PID"], ended["PROCWATCH_RESYNC"]) == (
        "exit",
        "42",
        "1",
    )
    assert not {"PROCWATCH_EXIT_CODE", "PROCWATCH_EXIT_SIGNAL", "PROCWATCH_DURATION_USEC"} & set(ended)
    assert ended["PROCWATCH_CMDLINE"] == "rsync -a '/my files'"
    assert (appeared["PROCWATCH_EVENT"], appeared["PROCWATCH_PID"]) == ("exec", "43")
    assert (appeared["PROCWATCH_RESYNC"], appeared["PROCWATCH_SOURCE"]) == ("1", "proc")
    names = ("EVENT", "COUNT", "APPEARED", "VANISHED", "EXECED", "SINCE_USEC", "UNTIL_USEC")
    assert [told[f"PROCWATCH_{name}"] for name in names] == ["resync", "2", "1", "1", "0", "2", "5"]
    terms = world.worker.terms()
    assert terms["RECEIVED"] == terms["LOGGED"] + terms["UNNEEDED"]


def test_unknown_types_are_unneeded(world: World) -> None:
    assert world.send((0x400, 1, 1), (wire.NONE, 0)) == []
    assert (world.worker.ledger.unneeded, world.worker.ledger.unknown) == (2, 1)


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (-5, "0us"),
        (999_999, "999us"),
        (1_690_000, "1.69ms"),
        (999_499_000, "999ms"),
        (999_900_000, "1s"),
        (3_200_000_000, "3.2s"),
        (59_940_000_000, "59.9s"),
        (59_999_000_000, "60s"),
        (61_000_000_000, "1min 1s"),
        (7_260_000_000_000, "2h 1min"),
        (90_000_000_000_000, "1d 1h"),
    ],
)
def test_durations(nanoseconds: int, text: str) -> None:
    assert duration(nanoseconds) == text


def test_a_batch_of_forgeries_alone_does_not_end_the_worker(world: World) -> None:
    """Whoever has CAP_NET_ADMIN can send one when nothing else happens."""
    batches = BatchQueue()
    worker = Worker(
        world.config("{}"), batches, world.writer, StillClock(), world.users, proc=str(world.proc.root)
    )
    batches.put(Batch(b"", foreign=1))
    assert worker._turn()
    datagram = wire.encode_event(EXIT, 42, 42, 0, timestamp_ns=100 * NS_PER_TICK)
    batches.put(Batch(datagram, foreign=1))
    batches.put(Batch(b"", foreign=2))
    worker._stopping = True
    batches.wake()
    while worker._turn():
        pass
    assert worker.ledger.foreign == 2
    assert [entry.fields["PROCWATCH_EVENT"] for entry in world.writer.entries] == ["exit"]
    batches.close()


def traced(world: World, *events: tuple[int, ...]) -> list[tuple[str | None, str | None]]:
    """The thread and the tracer of each ptrace entry."""
    entries = world.send(*events)
    assert {entry["PROCWATCH_EVENT"] for entry in entries} <= {"ptrace"}
    return [(entry.get("PROCWATCH_TID"), entry.get("PROCWATCH_TRACER_PID")) for entry in entries]


def test_of_a_traced_process_one_entry_tells(world: World) -> None:
    """A debugger takes each thread; who asks for threads has each."""
    attach = [(PTRACE, tid, 42, 7, 7) for tid in (43, 42, 44)]
    detach = [(PTRACE, tid, 42, 0, 0) for tid in (42, 43, 44)]
    world.start("capture: {events: [ptrace], threads: off}")
    assert traced(world, *attach) == [(None, "7")]
    assert traced(world, (PTRACE, 45, 42, 8, 8)) == [(None, "8")]
    assert traced(world, (PTRACE, 45, 42, 0, 0)) == [(None, None)]
    assert traced(world, *detach) == [(None, None)]
    assert traced(world, *attach) == [(None, "7")]
    # The tracer ends, and nobody tells what that let go; the next one with its id is another.
    assert traced(world, (EXIT, 7, 7, 0), *attach) == [(None, "7")]
    world.start("capture: {events: [ptrace], threads: on}")
    assert traced(world, *attach) == [("43", "7"), (None, "7"), ("44", "7")]
    assert traced(world, *detach) == [(None, None), ("43", None), ("44", None)]


class FakeAccounting(Accounting):
    """Takes filters, and keeps what they let pass."""

    def __init__(self) -> None:
        self.needs: list[Needs] = []

    def narrow(self, needs: Needs) -> None:
        self.needs.append(needs)


def with_accounting(world: World, yaml: str) -> FakeAccounting:
    """A worker that has records, so that the EXITs of single threads are rejected."""
    accounting = FakeAccounting()
    world.worker = Worker(
        world.config(yaml),
        BatchQueue(),
        world.writer,
        StillClock(),
        world.users,
        accounting=accounting,
        proc=str(world.proc.root),
    )
    world.worker.scan()
    return accounting


@pytest.mark.parametrize(
    ("yaml", "expected"),
    [
        ("{}", Needs(threads=False, ptrace=True, coredump=True, tasks=False)),
        (
            "{capture: {events: [exec, exit]}, log: {fields: [exe]}}",
            Needs(threads=False, ptrace=False, coredump=False, tasks=False),
        ),
        (
            "{capture: {events: [exec, sid]}, log: {fields: [exe]}}",
            Needs(threads=False, ptrace=False, coredump=False, tasks=False),
        ),
        (
            "{capture: {events: [exit]}, log: {fields: [exe]}, rules: [{name: t, match: {parent.tty: pts/1}}]}",
            Needs(threads=False, ptrace=False, coredump=False, tasks=False),
        ),
        (
            "{capture: {events: [exit]}, log: {fields: [exe]}, rules: [{name: t, match: {io-read-bytes|gt: 5}}]}",
            Needs(threads=False, ptrace=False, coredump=False, tasks=True),
        ),
        ("{capture: {events: all, threads: on}}", Needs()),
    ],
)
def test_what_is_needed_follows_from_the_configuration(world: World, yaml: str, expected: Needs) -> None:
    assert with_accounting(world, yaml).needs[-1] == expected


def test_without_records_the_events_of_threads_are_needed(world: World) -> None:
    config = world.config("{}")
    world.start("{}")
    assert needs(config, world.worker.builder, config.rules, has_accounting=False).threads


def test_an_exit_waits_for_the_end_of_its_process(world: World) -> None:
    """It is pending meanwhile; then it stands for the end."""
    with_accounting(world, "{capture: {events: [fork, exit]}, log: {fields: all}}")
    world.send((FORK, 1, 1, 42, 42), (EXIT, 42, 42, 0), records=[record(42, flags=0)])
    terms = world.worker.terms()
    assert (terms["PENDING"], terms["UNNEEDED"], terms["LOGGED"]) == (1, 0, 1)
    (ended,) = world.send(records=[record(43, 3 << 8, tgid=42)])
    assert (ended["PROCWATCH_EXIT_CODE"], ended["PROCWATCH_DURATION_USEC"]) == ("3", "20")
    assert not {"PROCWATCH_TID", "PROCWATCH_RESYNC"} & set(ended)
    terms = world.worker.terms()
    assert (terms["PENDING"], terms["UNNEEDED"], terms["LOGGED"], terms["RECEIVED"]) == (0, 0, 2, 2)


def test_an_end_that_nobody_wants_leaves_its_exit_unneeded(world: World) -> None:
    with_accounting(world, "{capture: {events: [fork]}}")
    world.send((FORK, 1, 1, 42, 42), (EXIT, 42, 42, 0), records=[record(42, flags=0)])
    assert world.worker.terms()["PENDING"] == 1
    assert world.send(records=[record(43, tgid=42)]) == []
    terms = world.worker.terms()
    assert (terms["PENDING"], terms["UNNEEDED"], terms["LOGGED"]) == (0, 1, 1)


def test_an_end_comes_before_the_next_life(world: World) -> None:
    with_accounting(world, "{capture: {events: [fork, exit]}}")
    world.send((FORK, 1, 1, 42, 42), (EXIT, 42, 42, 0), records=[record(42, flags=0)])
    ended, forked = world.send((FORK, 1, 1, 42, 42), tick=500)
    assert (ended["PROCWATCH_EVENT"], forked["PROCWATCH_EVENT"]) == ("exit", "fork")
    assert ended["PROCWATCH_PROCESS_ID"] == "42-100"
    # Its last record was lost.
    assert not {"PROCWATCH_EXIT_CODE", "PROCWATCH_EXIT_SOURCE"} & set(ended)
    assert world.worker.terms()["PENDING"] == 0


def test_a_reload_turns_threads_on_and_off(world: World) -> None:
    accounting = with_accounting(world, "{capture: {events: [fork, exit]}}")
    world.worker.configure(world.config("{capture: {events: [fork, exit], threads: on}}"))
    # What ends a process must not be rejected while its EXIT is not.
    assert [(one.threads, one.tasks) for one in accounting.needs] == [
        (False, False),
        (True, True),
        (True, True),
    ]
    world.send((FORK, 1, 1, 42, 42))
    entries = world.send((FORK, 1, 1, 43, 42), (EXIT, 43, 42, 0), records=[record(43, tgid=42, flags=0)])
    assert [entry.get("PROCWATCH_TID") for entry in entries] == ["43", "43"]
    world.worker.configure(world.config("{capture: {events: [fork, exit]}}"))
    assert world.send((FORK, 1, 1, 44, 42), (EXIT, 44, 42, 0), records=[record(44, tgid=42, flags=0)]) == []
    (ended,) = world.send((EXIT, 42, 42, 5 << 8), records=[record(42, 5 << 8)])
    assert ended["PROCWATCH_EXIT_CODE"] == "5"


def test_how_much_has_come_to_its_end_is_marked(world: World) -> None:
    settled = world.worker._marks.words
    world.send((FORK, 1, 1, 42, 42), (EXEC, 42, 42), (wire.NONE, 0))
    assert settled[Marks.SETTLED] == 3
    world.worker.settle()
    assert settled[Marks.SETTLED_NS] == 100 * NS_PER_TICK + 5000
    world.writer.held_events = 1
    world.send((EXIT, 42, 42, 0, 17, 1, 1), tick=200)
    world.worker.settle()
    assert (settled[Marks.SETTLED], settled[Marks.SETTLED_NS]) == (3, 100 * NS_PER_TICK + 5000)
    world.writer.held_events = 0
    world.send((FORK, 1, 1, 43, 43), tick=300)
    assert settled[Marks.SETTLED] == 5


class KeptConnector:
    """A connector whose socket somebody else had before us."""

    is_kept = True

    def narrow(self, needs: Needs) -> None: ...

    def ask(self) -> int:
        return 1

    def is_ours(self, ack: int) -> bool:
        return ack == 1

    def was_ours(self, ack: int) -> bool:
        return ack == 7


def test_what_another_one_had_in_hand_is_lost_and_told_once(world: World) -> None:
    marks = Marks()
    marks.words[Marks.RECEIVED], marks.words[Marks.SETTLED] = 100, 90
    marks.words[Marks.SETTLED_NS], marks.words[Marks.RECEIVED_NS] = 5_000_000, 6_000_000
    kept = cast(Connector, KeptConnector())
    world.worker = Worker(
        world.config("{}"),
        BatchQueue(),
        world.writer,
        StillClock(),
        world.users,
        connector=kept,
        marks=marks,
    )
    # Its ACKs are nobody else's.
    ack = wire.encode_event(wire.NONE, ack=7, seq=next(world.seq), timestamp_ns=100 * NS_PER_TICK)
    world.worker.take_in([Batch(ack)])
    entries = world.send((FORK, 1, 1, 42, 42))
    world.worker.losses.tell(None, 0)
    world.worker.losses.tell(None, 0)
    (loss,) = (entry.fields for entry in world.writer.entries[len(entries) :])
    assert loss["PROCWATCH_COUNT"] == "10"
    assert loss["PROCWATCH_LOST_WHERE"] == "restart"
    assert (loss["PROCWATCH_SINCE_USEC"], loss["PROCWATCH_UNTIL_USEC"]) == ("5000", "6000")
    terms = world.worker.terms()
    assert (terms["PRODUCED"], terms["RECEIVED"], terms["LOST"]) == (12, 2, 10)
    marks.words[Marks.RECEIVED] += 2
    world.worker.settle()
    assert marks.in_hand == 10, "the entry may not be written yet"
    world.worker.losses.mark_told()
    world.worker.settle()
    assert marks.in_hand == 0
