# SPDX-License-Identifier: MIT
"""What is silenced has an entry on how much it was, on the whole way from datagrams."""

from __future__ import annotations

import itertools
import os
import re
import socket
from pathlib import Path
from typing import Any

import pytest

from procwatchd.journal.entry import Entry
from procwatchd.journal.jsonlines import JsonWriter
from procwatchd.journal.native import JournaldWriter
from procwatchd.kernel.clock import NS_PER_TICK
from procwatchd.kernel.marks import Marks
from procwatchd.metrics import metrics_text
from procwatchd.rules import summary as summary_module
from tests.unit.test_worker import EXEC, EXIT, FORK, UID, World

PIDS = itertools.count(100)
COUNT = (
    "rules: [{name: cc, match: {event: exec, exe: /usr/bin/cc, namespaces: any}, action: count%s}]".replace(
        ", namespaces: any}", "}, namespaces: any"
    )
)
LIMIT = "rules: [{name: cc, match: {event: exec, comm: cc*}, limit: 2/min, by: uid, priority: notice%s}]"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def run(
    world: World, *argv: str, exe: str = "/usr/bin/cc", tick: int = 100, **also: Any
) -> list[dict[str, Any]]:
    """A process starts a program; gives the new entries."""
    pid = next(PIDS)
    cmdline = b"".join(word.encode() + b"\0" for word in argv)
    world.proc.add(pid, comm=b"cc", exe=exe, cmdline=cmdline, start=tick, **also)
    return world.send((FORK, 1, 1, pid, pid), (EXEC, pid, pid), tick=tick)


def told(world: World) -> list[dict[str, Any]]:
    """The entries that the end of all groups' time brings."""
    before = len(world.writer.entries)
    world.worker._silence.tell()
    return [entry.fields for entry in world.writer.entries[before:]]


def terms(world: World, *names: str) -> list[int]:
    every = world.worker.terms() | world.worker.more_terms(None)
    sorted_out = ("MALFORMED", "FOREIGN", "UNNEEDED", "CONSIDERED", "PENDING")
    assert every["RECEIVED"] == sum(every[name] for name in sorted_out)
    assert every["CONSIDERED"] == sum(
        every[name] for name in ("LOGGED", "DROPPED", "COUNTED", "LIMITED", "UNWRITTEN")
    )
    return [every[name] for name in names]


def test_what_a_rule_counts_is_one_entry(world: World) -> None:
    world.start(COUNT % ", every: 10s, by: [exe, tty], priority: notice")
    assert run(world, "cc", "-c", "a.c") == []
    assert run(world, "cc", "b c.c", tick=200) == []
    assert run(world, "cc", "-c", "a.c", tick=300) == []
    assert len(run(world, "ld", exe="/usr/bin/ld")) == 1
    assert terms(world, "COUNTED", "PENDING", "LOGGED") == [0, 3, 1]
    (entry,) = told(world)
    assert {name.removeprefix("PROCWATCH_"): value for name, value in entry.items()} | {
        "MONOTONIC_USEC": ""
    } == {
        "MESSAGE": "summary: 3 events counted by rule cc in 2s (exe=/usr/bin/cc), such as: cc -c a.c",
        "MESSAGE_ID": "c40bdefda5124a949dbf518a7cd169f3",
        "PRIORITY": "5",
        "SYSLOG_IDENTIFIER": "procwatchd",
        "EVENT": "summary",
        "MONOTONIC_USEC": "",
        "RULE": "cc",
        "GROUP": "exe=/usr/bin/cc",
        "COUNT": "3",
        "SINCE_USEC": str((100 * NS_PER_TICK + 5000) // 1000),
        "UNTIL_USEC": str((300 * NS_PER_TICK + 5000) // 1000),
        "SAMPLE": ["cc -c a.c", "cc 'b c.c'"],
    }
    assert told(world) == []
    assert terms(world, "COUNTED", "PENDING", "LOGGED") == [3, 0, 1]


def test_groups_are_told_apart_the_oldest_first(world: World) -> None:
    world.start(COUNT % ", by: [cmdline, uid, parent.comm]")
    run(world, "cc", "x y", tick=200)
    run(world, "cc", tick=100)
    run(world, "cc", "\x1b[31m", tick=300)
    assert [entry["PROCWATCH_GROUP"] for entry in told(world)] == [
        "cmdline=cc uid=0 parent.comm=systemd",
        "cmdline='cc '\\''x y'\\''' uid=0 parent.comm=systemd",
        "cmdline='cc $'\\''\\x1b[31m'\\''' uid=0 parent.comm=systemd",
    ]


def test_no_more_than_five_samples_and_none_twice(world: World) -> None:
    world.start(COUNT % "")
    for n in [*range(8), *range(8)]:
        run(world, "cc", str(n))
    (entry,) = told(world)
    assert entry["PROCWATCH_SAMPLE"] == [f"cc {n}" for n in range(5)]
    assert entry["PROCWATCH_COUNT"] == "16"
    assert "PROCWATCH_GROUP" not in entry


def test_samples_are_cut_as_command_lines_are(world: World) -> None:
    world.start("log: {max-argv: 256}\n" + COUNT % ", by: cmdline")
    run(world, "cc", "x" * 5000)
    (entry,) = told(world)
    (sample,) = entry["PROCWATCH_SAMPLE"]
    assert "bytes…" in sample
    assert len(sample) < 300
    assert len(entry["PROCWATCH_GROUP"]) < 300
    world.start("log: {max-argv: 256}\n" + COUNT % "")
    for middle in "ab":
        run(world, "cc", "x" * 500 + middle + "x" * 500)
    (entry,) = told(world)
    assert len(entry["PROCWATCH_SAMPLE"]) == 1


def test_an_entry_comes_when_its_time_is_over(world: World) -> None:
    world.start(COUNT % ", every: 20s, by: uid")
    run(world, "cc", tick=1000)
    run(world, "cc", tick=1500, uid=7)
    silence = world.worker._silence
    before = len(world.writer.entries)
    groups = []
    for seconds in (29.9, 30.1, 34.9, 35.1):
        silence.tell_due(int(seconds * 1e9))
        groups.append([entry.fields["PROCWATCH_GROUP"] for entry in world.writer.entries[before:]])
        before = len(world.writer.entries)
    assert groups == [[], ["uid=0"], [], ["uid=7"]]
    assert not silence.is_any_untold


def test_what_is_over_a_limit_is_told(world: World) -> None:
    world.start(LIMIT % "")
    assert world.worker._patience() > 1.0
    assert sum(len(run(world, "cc", str(n))) for n in range(5)) == 2
    assert world.worker._patience() == 1.0
    assert len(run(world, "cc", uid=7)) == 1
    assert terms(world, "LIMITED", "PENDING", "LOGGED") == [0, 3, 3]
    (entry,) = told(world)
    assert terms(world, "LIMITED", "PENDING", "LOGGED") == [3, 0, 3]
    assert entry["MESSAGE"] == "summary: 3 events over the limit of rule cc (uid=0), such as: cc 2"
    assert (entry["PROCWATCH_RULE"], entry["PROCWATCH_COUNT"]) == ("cc", "3")
    limits = world.worker._silence._limits
    assert [len(groups) for groups in limits._of_rules.values()] == [2]
    world.worker._silence.tell_due(10**15)
    assert [len(groups) for groups in limits._of_rules.values()] == [0]


def test_what_is_over_the_limit_of_all_is_told_by_unit_and_user(world: World) -> None:
    world.start("log: {limit: 3/min}\nrules: [{name: bad, match: {cmdline: cc bad}, priority: notice}]")
    assert sum(len(run(world, "cc", str(n))) for n in range(5)) == 3
    run(world, "cc", "bad")
    assert len(run(world, "cc", uid=7)) == 1
    (entry,) = told(world)
    assert entry["MESSAGE"].startswith("summary: 3 events over log.limit (unit=prog.service uid=0), such as")
    assert "PROCWATCH_RULE" not in entry
    # As severe as the most severe among them.
    assert entry["PRIORITY"] == "5"
    assert terms(world, "LIMITED", "LOGGED") == [3, 4]


@pytest.mark.parametrize(
    "rule", ["priority: alert", "priority: warning, action: tag, tags: [bad]"], ids=["decides", "tags"]
)
def test_the_noise_of_a_user_does_not_hide_what_a_rule_warns_of(world: World, rule: str) -> None:
    world.start(f"log: {{limit: 4/min}}\nrules: [{{name: bad, match: {{cmdline: cc bad*}}, {rule}}}]")
    assert sum(len(run(world, "true", str(n), uid=7)) for n in range(300)) == 4
    assert sum(len(run(world, "cc", f"bad{n}", uid=7)) for n in range(7)) == 2
    noise, alarms = told(world)
    assert noise["PROCWATCH_SAMPLE"] == [f"true {n}" for n in range(4, 9)]
    assert (noise["PRIORITY"], noise["PROCWATCH_COUNT"]) == ("6", "296")
    name = "bad" if "alert" in rule else None
    assert alarms.get("PROCWATCH_RULE") == name
    whose = "of rule bad over log.limit" if name else "over log.limit"
    assert alarms["MESSAGE"].startswith(
        f"summary: 5 events {whose} (unit=prog.service uid=7), such as: cc bad2"
    )
    assert terms(world, "LIMITED", "LOGGED") == [301, 6]


class Unread(World):
    """One whose journald cannot be reached, with a hold of so many bytes; `bind` brings it back."""

    def __init__(self, directory: Path, hold_bytes: int) -> None:
        self.path = directory / "socket"
        self.journald = JournaldWriter(str(self.path), hold_bytes=hold_bytes, clock=lambda: next(SECONDS))
        super().__init__(directory)

    def start(self, yaml: str) -> None:
        self.writer = self.journald  # type: ignore[assignment]
        super().start(yaml)
        self.worker._marks.words[Marks.RECEIVED] = 10
        self.journald.entries = []  # type: ignore[attr-defined]

    def bind(self) -> socket.socket:
        journald = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        journald.bind(str(self.path))
        return journald

    def settle(self) -> tuple[int, ...]:
        self.worker.settle()
        return (
            self.worker._marks.in_hand,
            *terms(self, "COUNTED", "LIMITED", "PENDING", "UNWRITTEN", "LOGGED"),
        )


SECONDS = itertools.count()
DROPPED = "log: {unmatched: drop}\n"


@pytest.mark.parametrize(("rule", "counted"), [(COUNT % "", 5), (LIMIT % "", 0)], ids=["count", "limit"])
def test_a_summary_that_is_held_is_in_hand_until_it_is_written(
    tmp_path: Path, rule: str, counted: int
) -> None:
    world = Unread(tmp_path, 1 << 20)
    world.start(DROPPED + rule)
    for _ in range(5):
        run(world, "cc")
    logged, limited = (0, 0) if counted else (2, 3)
    assert world.settle() == (5, 0, 0, 5, 0, 0)
    world.worker._silence.tell()
    assert world.settle() == (5, 0, 0, 5, 0, 0)
    with world.bind():
        world.worker._write_held()
        assert world.settle() == (0, counted, limited, 0, 0, logged)


def test_a_summary_that_is_written_at_once_is_settled(tmp_path: Path) -> None:
    world = Unread(tmp_path, 1 << 20)
    world.start(DROPPED + COUNT % "")
    with world.bind():
        for _ in range(5):
            run(world, "cc")
        world.worker._silence.tell()
        assert world.settle() == (0, 5, 0, 0, 0, 0)


@pytest.mark.parametrize("is_read", [True, False])
def test_a_summary_as_a_line_is_written_or_lost(tmp_path: Path, *, is_read: bool) -> None:
    reader, writer = os.pipe()
    world = Unread(tmp_path, 1)
    world.journald = JsonWriter(writer, boot_id="0" * 32, hostname="h")  # type: ignore[assignment]
    world.start(DROPPED + COUNT % "")
    for _ in range(5):
        run(world, "cc")
    if not is_read:
        os.close(reader)
    world.worker._silence.tell()
    assert world.settle() == (5, 0, 0, 5, 0, 0)
    world.worker._write_held()
    assert world.settle() == ((0, 5, 0, 0, 0, 0) if is_read else (5, 0, 0, 0, 5, 0))
    os.close(writer)
    if is_read:
        os.close(reader)


@pytest.mark.parametrize(("rule", "counted"), [(COUNT % "", 5), (LIMIT % "", 0)], ids=["count", "limit"])
def test_a_summary_that_is_given_up_is_lost_with_all_its_events(
    tmp_path: Path, rule: str, counted: int
) -> None:
    world = Unread(tmp_path, 1)
    world.start(DROPPED + rule)
    for _ in range(5):
        run(world, "cc")
    world.worker._silence.tell()
    assert world.settle() == (5, 0, 0, 0, 5, 0)
    with world.bind() as journald:
        world.worker.losses.tell(world.journald.take_loss(), 0)
        world.worker._write_held()
        loss = journald.recv(1 << 16).split(b"\n")
    assert b"PROCWATCH_COUNT=5" in loss
    entries = 1 if counted else 3
    assert any(line.startswith(b"MESSAGE=loss: %d entries on 5 events" % entries) for line in loss)
    assert world.settle() == (0, 0, 0, 0, 5, 0)


def counters(world: World) -> dict[str, int]:
    """What Prometheus is told to be counters."""
    text = metrics_text(world.worker.terms() | world.worker.more_terms(None), {})
    return {name: int(value) for name, value in re.findall(r"^# TYPE (\w+) counter\n\1 (\d+)$", text, re.M)}


@pytest.mark.parametrize("rule", [COUNT % "", LIMIT % ""], ids=["count", "limit"])
@pytest.mark.parametrize("hold_bytes", [1 << 20, 1], ids=["held", "given up"])
def test_what_is_counted_never_becomes_less(tmp_path: Path, rule: str, hold_bytes: int) -> None:
    world = Unread(tmp_path, hold_bytes)
    world.start(DROPPED + rule)
    seen = [counters(world)]
    for _ in range(5):
        run(world, "cc")
        terms(world)
        seen.append(counters(world))
    world.worker._silence.tell()
    terms(world)
    seen.append(counters(world))
    with world.bind():
        world.worker._write_held()
        terms(world)
        seen.append(counters(world))
    for before, after in itertools.pairwise(seen):
        assert {name: after[name] for name in before if after[name] < before[name]} == {}
    assert seen[-1]["procwatchd_considered_total"] == 5


def test_an_error_at_one_summary_costs_that_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.start(COUNT % ", by: [cmdline]")
    for words in ((), ("bad",), ("bad",), ("good",)):
        run(world, "cc", *words)
    own = world.worker.builder.own

    def fails(kind: str, text: str, *also: Any, **fields: Any) -> Entry:
        if kind == "summary" and "bad" in text:
            raise RuntimeError("odd")
        return own(kind, text, *also, **fields)

    monkeypatch.setattr(world.worker.builder, "own", fails)
    first, failure, last = told(world)
    assert [entry["PROCWATCH_GROUP"] for entry in (first, last)] == ["cmdline=cc", "cmdline='cc good'"]
    assert (failure["PROCWATCH_EVENT"], failure["PROCWATCH_COUNT"]) == ("loss", "2")
    assert "at a summary" in str(failure["MESSAGE"])
    assert terms(world, "COUNTED", "UNWRITTEN", "PENDING", "FAILURES") == [2, 2, 0, 1]


def test_the_daemons_own_entries_are_outside_the_limit(world: World) -> None:
    world.start("log: {limit: 1/h}")
    run(world, "cc")
    before = len(world.writer.entries)
    for _ in range(5):
        world.worker.own("statistics", "text")
    assert len(world.writer.entries) == before + 5


def test_open_summaries_are_told_before_other_rules_hold(world: World) -> None:
    world.start(COUNT % "")
    run(world, "cc")
    before = len(world.writer.entries)
    world.worker.configure(world.config("{}"))
    assert [entry.fields["PROCWATCH_EVENT"] for entry in world.writer.entries[before:]] == ["summary"]


def test_open_summaries_are_told_at_the_end(world: World) -> None:
    world.start(COUNT % "")
    run(world, "cc")
    world.worker.start(lambda: None)
    world.worker.stop()
    assert [entry.fields["PROCWATCH_EVENT"] for entry in world.writer.entries] == ["summary"]
    assert terms(world, "COUNTED", "PENDING") == [1, 0]


def test_until_it_is_told_it_is_in_hand(world: World) -> None:
    """Should we be killed, it is not silence without a word."""
    world.start(COUNT % "")
    world.worker._marks.words[Marks.RECEIVED] = 4
    run(world, "cc")
    run(world, "cc")
    assert world.worker._marks.in_hand == 2
    told(world)
    world.worker.settle()
    assert world.worker._marks.in_hand == 0


def test_what_a_resync_found_is_told_and_is_no_event_of_the_ledger(world: World) -> None:
    world.start("rules: [{name: ends, match: {event: exit}, action: count}]")
    world.proc.add(42, start=100)
    world.send((FORK, 1, 1, 42, 42), tick=100)
    record = world.worker._records.found(world.worker._ends.vanished(world.worker.table.living()[-1]), 5)
    assert record is not None
    world.worker._decide(record)
    (entry,) = told(world)
    assert entry["PROCWATCH_COUNT"] == "1"
    assert terms(world, "COUNTED") == [0]


def test_groups_beyond_the_limit_are_summarised_together(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(summary_module, "SUMMARIES_LIMIT", 2)
    world.start(COUNT % ", by: cmdline")
    for n in (1, 2, 3, 4, 2):
        run(world, "cc", str(n))
    entries = told(world)
    assert [(entry.get("PROCWATCH_GROUP"), entry["PROCWATCH_COUNT"]) for entry in entries] == [
        ("cmdline='cc 1'", "1"),
        ("cmdline='cc 2'", "2"),
        (None, "2"),
    ]
    assert "(others)" in entries[2]["MESSAGE"]
    assert terms(world, "GROUPS_SHARED", "COUNTED") == [2, 5]


def test_texts_are_limited(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summary_module, "TEXTS_LIMIT", 100)
    world.start(COUNT % ", by: cmdline")
    for n in range(10):
        run(world, "cc", str(n) * 20)
    shared, skipped = terms(world, "GROUPS_SHARED", "SAMPLES_SKIPPED")
    summaries = world.worker._silence._summaries
    kept = sum(len(each.group or "") + sum(map(len, each.samples.values())) for each in summaries.take(1e18))
    assert kept < 200
    assert summaries._texts == 0
    assert shared > 5
    assert skipped > 5


DETECTION = """
title: A compiler
id: 9a0a6e3e-4b9d-4bb8-9c0a-0d9c4f6f9c11
logsource: {product: linux, category: process_creation}
detection:
  selection: {CommandLine|contains: evil}
  condition: selection
level: high
"""


@pytest.mark.parametrize("rules", [COUNT % "", LIMIT % "", "log: {limit: 2/h}"])
def test_a_detection_is_never_silenced(world: World, tmp_path: Path, rules: str) -> None:
    (tmp_path / "evil.yml").write_text(DETECTION)
    world.start(f"sigma: {{paths: [{tmp_path / 'evil.yml'}]}}\n{rules}")
    assert sum(len(run(world, "cc", "evil", str(n))) for n in range(20)) == 20
    assert told(world) == []
    # Nor does it take anything of what others may have.
    logged = 0 if "count" in rules else 2
    assert sum(len(run(world, "cc", str(n))) for n in range(3)) == logged
    assert terms(world, "LOGGED") == [20 + logged]


def test_an_exe_that_silences_counts_on_the_host_only(world: World) -> None:
    world.start("rules: [{name: cc, match: {exe: /usr/bin/cc}, action: count}]")
    assert len(run(world, "cc", mounts=1)) == 1
    assert run(world, "cc") == []


def test_tags_follow_the_tree(world: World) -> None:
    world.start(
        """
rules:
  - {name: t, match: {event: exec, comm: backup}, action: tag, tags: [backup, night], inherit: true}
  - {name: u, match: {event: exec, tags: night}, action: tag, tags: [again]}
  - {name: silent, match: {event: exit, tags: backup}, action: drop}
"""
    )
    world.proc.add(42, comm=b"backup", start=100)
    assert world.send((FORK, 1, 1, 42, 42), (EXEC, 42, 42))[0]["PROCWATCH_TAGS"] == "backup night again"
    world.proc.add(43, comm=b"rsync", start=100, ppid=42)
    world.proc.add(44, comm=b"ssh", start=100, ppid=43)
    sent = world.send((FORK, 42, 42, 43, 43), (EXEC, 43, 43), (FORK, 43, 43, 44, 44), (EXEC, 44, 44))
    assert [entry["PROCWATCH_TAGS"] for entry in sent] == ["backup night again"] * 2
    # By the rules, and not by whose child it is now: its parent has ended.
    assert world.send((EXIT, 43, 43, 0, 17, 42, 42), (EXIT, 42, 42, 0, 17, 1, 1)) == []
    assert world.send((EXEC, 44, 44))[0]["PROCWATCH_TAGS"] == "backup night again"
    world.proc.add(45, comm=b"other", start=100)
    assert "PROCWATCH_TAGS" not in world.send((FORK, 1, 1, 45, 45), (EXEC, 45, 45))[0]


def test_who_lives_already_is_tagged_as_if_just_started(world: World) -> None:
    rule = "rules: [{name: t, match: {event: exec, comm: %s}, action: tag, tags: %s, inherit: true}]"
    world.proc.add(50, comm=b"sshd", start=10, ppid=1)
    world.proc.add(51, comm=b"bash", start=20, ppid=50)
    world.start(rule % ("sshd", "ssh"))
    world.proc.add(52, comm=b"vi", start=100, ppid=51)
    (entry,) = world.send((FORK, 51, 51, 52, 52), (EXEC, 52, 52))
    assert entry["PROCWATCH_TAGS"] == "ssh"
    # After a reload nothing is left of a rule that is gone, and the new one holds for all below it.
    world.worker.configure(world.config(rule % ("bash", "shell")))
    assert [getattr(world.worker.table.get(pid), "tags", None) for pid in (50, 51, 52)] == [
        (),
        ("shell",),
        ("shell",),
    ]


def start_program(world: World, parent: int, pid: int, comm: bytes, tick: int) -> None:
    world.proc.add(pid, comm=comm, start=tick, ppid=parent)
    world.send((FORK, parent, parent, pid, pid), (EXEC, pid, pid), tick=tick)


@pytest.mark.parametrize("since", ["uid", "exec", "end", "child"])
def test_a_reload_tags_all_descendants_whatever_became_of_who_started_them(world: World, since: str) -> None:
    """As they would have been tagged, had the rule been there all the time."""
    start_program(world, 1, 10, b"top", 100)
    start_program(world, 10, 11, b"mid", 200)
    start_program(world, 11, 12, b"leaf", 300)
    if since == "uid":
        world.send((UID, 10, 10, 1000, 1000), (UID, 11, 11, 1000, 1000), tick=400)
    elif since == "end":
        world.send((EXIT, 11, 11, 0, 17, 10, 10), tick=400)
    else:
        world.proc.remove(10)
        world.proc.add(10, comm=b"other", start=100)
        world.send((EXEC, 10, 10), tick=400)
    if since == "child":
        start_program(world, 10, 13, b"late", 500)
    rule = "rules: [{name: t, match: {event: exec, comm: top}, action: tag, tags: ssh, inherit: true}]"
    world.worker.configure(world.config(rule))
    assert {process.pid for process in world.worker.table.living() if process.tags == ("ssh",)} == {
        *(10, 12),
        *(() if since == "end" else (11,)),
        *((13,) if since == "child" else ()),
    }
    world.worker.configure(world.config("{}"))
    assert not any(process.tags for process in world.worker.table.all())
