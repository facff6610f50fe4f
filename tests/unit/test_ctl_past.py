# SPDX-License-Identifier: MIT
"""What the past says of events: never what it does not hold, and all that it does."""

from __future__ import annotations

import argparse
import errno
import io
import itertools
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from procwatchd.config import load_config
from procwatchd.ctl.errors import CtlError
from procwatchd.ctl.past import journal
from procwatchd.ctl.past.events import Past
from procwatchd.ctl.past.facts import Facts, ForeignError, facts_of_entry
from procwatchd.ctl.past.jsonlines import LINE_LIMIT_BYTES, Skipped, read_objects
from procwatchd.ctl.past.recording import End, read_end
from procwatchd.ctl.past.truth import Tags, ask_match
from procwatchd.ctl.past.unquote import unquote
from procwatchd.ctl.rules.judge import Judge
from procwatchd.journal.build import EntryBuilder
from procwatchd.journal.entry import Entry
from procwatchd.journal.jsonlines import json_value
from procwatchd.journal.quote import quote_argv
from procwatchd.kernel import wire
from procwatchd.kernel.clock import Clock
from procwatchd.kernel.queue import Batch, BatchQueue
from procwatchd.process.model import Record
from procwatchd.rules.match import Match, compile_match
from procwatchd.rules.redact import Redactor
from procwatchd.rules.ruleset import Decision
from procwatchd.tape import Tape, TapeError
from procwatchd.worker import Worker
from tests.unit.test_index import TAGS, matches, records, trees
from tests.unit.test_match import process
from tests.unit.test_worker import StillClock, World

LOG = Decision("log", None, 6)
FORK, EXEC, EXIT = wire.FORK, wire.EXEC, wire.EXIT


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def options(file: Path | None = None, **rest: Any) -> argparse.Namespace:
    return argparse.Namespace(
        **{
            "file": None if file is None else str(file),
            "directory": None,
            "since": None,
            "until": None,
            **rest,
        }
    )


def entry_of(record: Record, fields: str | frozenset[str] = "all", patterns: Any = ()) -> dict[str, Any]:
    redactor = Redactor(b"k" * 32, is_builtin=False, patterns=patterns)
    return as_json(EntryBuilder(Clock(), fields, 4096, redactor).build(record, LOG))


def as_json(entry: Entry) -> dict[str, Any]:
    fields = {name: json_value(value) for name, value in entry.fields.items() if not isinstance(value, list)}
    return json.loads(json.dumps(fields))  # type: ignore[no-any-return]


def with_plain_names(record: Record) -> Record:
    """No terminal has a name that is no text."""
    for life in (record.process, *record.process.ancestors()):
        if life.context.tty and not life.context.tty.isprintable():
            life.context.tty = None
    return record


def recorded(directory: Path, *of: Record) -> list[Facts]:
    path = directory / f"{next(NUMBERS)}"
    tape = Tape(str(path))
    for record in of:
        tape.write(record)
    tape.close()
    return list(Past(options(path)).events())


NUMBERS = itertools.count()


@given(
    matches,
    st.lists(records().map(with_plain_names), min_size=1, max_size=4),
    st.lists(st.sampled_from(TAGS)),
)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_of_a_recording_all_is_known_and_true(
    tmp_path_factory: pytest.TempPathFactory, match: Match, of: list[Record], tags: list[str]
) -> None:
    directory = tmp_path_factory.mktemp("tape")
    for cased in (True, False):
        again = compile_match(match.tree, silences=match.is_guarded, cased=cased)
        ask = ask_match(again, cased=cased)
        found = [ask(facts, Tags(tags)).truth for facts in recorded(directory, *of)]
        assert found == [again.holds(record, tags) for record in of]


@given(
    trees,
    st.booleans(),
    records().map(with_plain_names),
    st.sampled_from(["standard", "all", frozenset({"EXE", "UNIT"}), frozenset({"CMDLINE", "ANCESTORS"})]),
)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_of_an_entry_nothing_is_claimed_that_was_not_so(
    tree: dict[str, Any], silences: bool, of: Record, fields: Any
) -> None:
    try:
        match = compile_match(tree, silences=silences)
    except ValueError:  # a regular expression put together by chance
        return
    of.wait_status = of.wait_status if of.event == "exit" else None
    of.tracer = of.tracer if of.event == "ptrace" else None
    found = ask_match(match)(facts_of_entry(entry_of(of, fields)), Tags((), TAGS)).truth
    assert found is None or [found] * 2 == [match.holds(of), match.holds(of, TAGS)]


@given(
    st.lists(st.binary(max_size=9) | st.sampled_from([b"'", b"$'", b"\\", b"it's", b"\n\xff", "ä".encode()]))
)
def test_quotes_are_taken_off_again(argv: list[bytes]) -> None:
    words = [arg.replace(b"\0", b"") for arg in argv]
    raw = b"".join(word + b"\0" for word in words)
    assert unquote(quote_argv(raw)) == b" ".join(words)


def truth(tree: dict[str, Any], entry: dict[str, Any]) -> bool | None:
    return ask_match(compile_match(tree))(facts_of_entry(entry), Tags()).truth


STANDARD = {
    "PROCWATCH_EVENT": "exec",
    "PROCWATCH_PID": "5",
    "PROCWATCH_MONOTONIC_USEC": "1",
    "PROCWATCH_IDENTITY": "same",
    "PROCWATCH_SOURCE": "proc",
}


@pytest.mark.parametrize(
    ("tree", "fields", "expected"),
    [
        ({"exe": "/bin/sh"}, {"EXE": "/bin/sh"}, True),
        ({"exe": "/bin/sh"}, {}, False),
        ({"exe|exists": "no"}, {}, True),
        ({"sid": "1"}, {}, None),
        ({"sid": "1"}, {"SID": "1"}, True),
        ({"euid": "0"}, {"UID": "0"}, True),
        ({"euid": "0"}, {"UID": "0", "EUID": "7"}, False),
        ({"gid": "0"}, {"UID": "0"}, None),
        ({"cmdline": "a b"}, {"CMDLINE": "a b"}, True),
        ({"cmdline": "a 'b"}, {"CMDLINE": "a ''\\''b'"}, True),
        ({"cmdline|contains": "x"}, {"CMDLINE": "a '<redacted:password:0a0b0c0d>'"}, None),
        ({"not": {"cmdline|contains": "x"}}, {"CMDLINE": "a '<redacted:password:0a0b0c0d>'"}, None),
        ({"cmdline|contains": "x", "pid": "6"}, {"CMDLINE": "<redacted:a:b>"}, False),
        ({"any": [{"cmdline|contains": "x"}, {"pid": "5"}]}, {"CMDLINE": "<redacted:a:b>"}, True),
        ({"cmdline": "a*"}, {"CMDLINE": "a […7 bytes…] b"}, None),
        ({"cmdline": "a*"}, {"CMDLINE": "a '[…7 bytes…]' b"}, True),
        ({"cmdline": "a*"}, {"CMDLINE": "a b", "ARGV_TRUNCATED": "1"}, None),
        ({"cmdline": "a*"}, {"CMDLINE": None}, None),
        ({"parent.comm": "sh"}, {"ANCESTORS": "sh[4] init[1]", "PARENT_COMM": "sh"}, True),
        ({"parent.unit": "a"}, {"ANCESTORS": "sh[4] init[1]", "PARENT_COMM": "sh"}, None),
        ({"parent.exe": "a"}, {"ANCESTORS": "sh[4] init[1]", "PARENT_COMM": "sh"}, False),
        ({"parent.exe": "a"}, {}, False),
        ({"ancestor.comm": "init"}, {"ANCESTORS": "sh[4] init[1]"}, True),
        ({"ancestor.comm": "a b"}, {"ANCESTORS": "sh[4] a\\x20b[1]"}, True),
        ({"ancestor.comm": "zsh"}, {"ANCESTORS": "sh[4] init[1]"}, False),
        ({"ancestor.comm": "zsh"}, {"ANCESTORS": "sh[4] ?[1]"}, None),
        ({"ancestor.exe": "/bin/sh"}, {"ANCESTORS": "sh[4] init[1]"}, None),
        ({"ancestor.exe": "/bin/sh", "ancestor.pid": "2"}, {"ANCESTORS": "sh[4] init[1]"}, False),
        ({"ancestor.exe": "/bin/sh"}, {}, False),
    ],
)  # fmt: skip
def test_what_an_entry_says(tree: dict[str, Any], fields: dict[str, Any], expected: bool | None) -> None:
    assert truth(tree, STANDARD | {f"PROCWATCH_{name}": value for name, value in fields.items()}) is expected


def test_what_a_list_of_fields_left_out_is_unknown() -> None:
    listed = {"PROCWATCH_EVENT": "exec", "PROCWATCH_PID": "5"}
    assert [
        truth(tree, listed) for tree in ({"exe": "/a"}, {"parent.exe": "/a"}, {"ancestor.exe": "/a"})
    ] == [None] * 3
    assert truth({"pid": "5"}, listed) is True


def test_a_silencing_rule_trusts_a_path_where_the_entry_says_whose_it_is() -> None:
    ask = ask_match(compile_match({"exe": "/bin/a"}, silences=True))
    here = STANDARD | {"PROCWATCH_EXE": "/bin/a"}
    found = [
        here | {"PROCWATCH_CWD": "/"},
        here,
        here | {"PROCWATCH_CWD": "/", "PROCWATCH_MOUNT_NAMESPACE": "7"},
    ]
    assert [ask(facts_of_entry(entry), Tags()).truth for entry in found] == [True, None, False]


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"MESSAGE": "hello"},
        {"PROCWATCH_EVENT": ["exec", "exit"]},
        {"PROCWATCH_EVENT": "exec", "_SYSTEMD_UNIT": "evil.service"},
        {"PROCWATCH_EVENT": "no such kind"},
    ],
)
def test_what_is_foreign(entry: dict[str, Any]) -> None:
    with pytest.raises(ForeignError):
        facts_of_entry(entry)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(
        st.sampled_from(
            [f"PROCWATCH_{name}" for name in ("PID", "EXE", "CMDLINE", "ANCESTORS", "SOURCE", "UID")]
        ),
        st.none()
        | st.integers()
        | st.text()
        | st.lists(st.integers(-1, 256))
        | st.lists(st.text())
        | st.booleans(),
    )
)
def test_odd_values_are_unknown(fields: dict[str, Any]) -> None:
    facts = facts_of_entry({"PROCWATCH_EVENT": "exec", **fields})
    assert {name.removeprefix("PROCWATCH_") for name in fields} <= facts.values.keys() | facts.hidden.keys()


BAD = [b"", b"{", b"[1]", b"null", b"\xff", b"[" * 100_000, b'{"a":' + b"9" * 5000 + b"}", b'"\\ud800"']


def test_lines_that_are_none_are_named() -> None:
    skipped = Skipped()
    data = b"\n".join([*BAD, b'{"a":1}', b" " * (LINE_LIMIT_BYTES + 9), b'{"b":2}', b'{"c'])
    assert [found for _, found in read_objects(io.BytesIO(data), "f", skipped)] == [{"a": 1}, {"b": 2}]
    assert skipped.count == len(BAD) + 1
    assert skipped.shown[0] == "f:2: not JSON, or cut off"


@given(st.lists(st.binary(max_size=40) | st.sampled_from([b'{"procwatchd-recording":1}', b'{"process":0}'])))
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_file_is_a_traceback(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]) -> None:
    path = tmp_path_factory.mktemp("odd") / "file"
    path.write_bytes(b"\n".join(lines))
    assert list(Past(options(path)).events()) == []


def test_lines_of_a_recording_that_are_none_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "tape"
    odd = [
        {},
        {"record": 5},
        {"process": "x"},
        {"process": 0},
        {"record": [], "fields": {}},
        {"process": None},
    ]
    good = {"process": 0, "parent": None, "forked_usec": None, "host_mounts": True, "fields": {"PID": "7"}}
    event = {"record": 0, "fields": {"EVENT": "exec"}}
    lines = [{"procwatchd-recording": 1}, *odd, good, {"record": 0, "fields": {"EVENT": "x"}}, event]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    past = Past(options(path))
    assert [facts.values for facts in past.events()] == [{"PID": 7, "EVENT": "exec"}]
    assert past.skipped.count == len(odd) + 1


def test_a_recording_of_another_form_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tape"
    path.write_text('{"procwatchd-recording":2}\n')
    with pytest.raises(CtlError, match="another form"):
        list(Past(options(path)).events())


def test_what_has_no_entry_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "entries"
    entries: list[dict[str, Any]] = [
        {"EVENT": "statistics", "DROPPED": "100"},
        {"EVENT": "summary", "COUNT": "7"},
        {"EVENT": "statistics", "DROPPED": "110"},
        {"EVENT": "loss", "COUNT": "3"},
        {"EVENT": "start"},
        {"EVENT": "stop", "DROPPED": "5"},
    ]
    path.write_text(
        "".join(json.dumps({f"PROCWATCH_{name}": value for name, value in e.items()}) + "\n" for e in entries)
    )
    past = Past(options(path))
    assert list(past.events()) == []
    absent = past.absent
    assert (absent.dropped, absent.summarised, absent.lost_events, past.skipped.count) == (15, 7, 3, 0)


def accounts(tmp_path: Path, *of: dict[str, Any]) -> Past:
    """What is read of the daemon's own entries: values with a name that begins with `_` are journald's."""
    path = tmp_path / "accounts"
    lines = [{name if name[0] == "_" else f"PROCWATCH_{name}": one[name] for name in one} for one in of]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    past = Past(options(path))
    assert list(past.events()) == []
    return past


def account(at: int, dropped: int | None, *, host: str = "a", boot: str = "1") -> dict[str, Any]:
    told = {"EVENT": "start"} if dropped is None else {"EVENT": "statistics", "DROPPED": str(dropped)}
    return {"__REALTIME_TIMESTAMP": str(at), "_MACHINE_ID": host, "_BOOT_ID": boot, **told}


@pytest.mark.parametrize(
    ("of", "expected"),
    [
        ([], (None, None, None)),
        ([account(5, 100)], (None, None, None)),
        ([account(5, None)], (None, None, None)),
        ([account(5, 100), account(6, 100)], (0, 5, 6)),
        ([account(5, None), account(6, 7)], (7, 5, 6)),
        ([account(5, 100), account(6, 110), account(7, None), account(8, 3)], (13, 5, 8)),
        # It was started again, and nobody told.
        ([account(5, 100), account(6, 4)], (4, 5, 6)),
        (
            [account(5, 100), account(6, 900, host="b"), account(7, 110), account(8, 930, host="b")],
            (40, 5, 8),
        ),
        ([account(5, 100), account(6, 900, boot="2")], (None, None, None)),
    ],
)
def test_of_what_rules_dropped_that_alone_is_told_that_is_known(
    tmp_path: Path, of: list[dict[str, Any]], expected: tuple[int | None, ...]
) -> None:
    absent = accounts(tmp_path, *of).absent
    assert (absent.dropped, absent.dropped_since_usec, absent.dropped_until_usec) == expected


@pytest.mark.parametrize("asked", [{"since": "@1"}, {"until": "@1"}])
def test_of_a_recording_no_time_can_be_asked_for(tmp_path: Path, asked: dict[str, str]) -> None:
    path = tmp_path / "tape"
    path.write_text('{"procwatchd-recording":1}\n')
    with pytest.raises(CtlError, match="no times of the day"):
        list(Past(options(path, **asked)).events())


def test_only_what_is_of_the_time_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "entries"
    times = ["1000000000000000", "1500000000000000", "2000000000000000", None]
    entries = [
        {"PROCWATCH_EVENT": "exec", "__REALTIME_TIMESTAMP": when, "PROCWATCH_PID": str(at)}
        for at, when in enumerate(times)
    ]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    past = Past(options(path, since="@1400000000", until="@1600000000"))
    assert [facts.values["PID"] for facts in past.events()] == [1]
    assert past.skipped.count == 1
    with pytest.raises(CtlError, match="no time"):
        Past(options(path, since="nonsense"))


RULES = """
capture: {events: [fork, exec, exit]}
rules:
  - {name: shell, match: {event: exec, exe: /bin/sh}, action: tag, tags: [below], inherit: true}
  - {name: below, match: {tags: below, event: exit}, priority: warning}
  - {name: rest, match: {event: [exec, fork]}, priority: notice}
"""


def test_a_recording_decides_as_the_daemon_did(world: World, tmp_path: Path) -> None:
    """Tags go to who is forked after they were given, and were there before the daemon for some."""
    world.proc.add(7, comm=b"sh", exe="/bin/sh", cmdline=b"sh\0", start=10)
    world.proc.add(8, comm=b"old", exe="/bin/old", cmdline=b"old\0", start=11, ppid=7)
    path = tmp_path / "tape"
    world.worker = Worker(
        world.config(RULES),
        BatchQueue(),
        world.writer,
        StillClock(),
        world.users,
        proc=str(world.proc.root),
        tape=(tape := Tape(str(path))),
    )
    world.worker.scan()
    world.worker.start(lambda: None)
    world.worker.stop()
    world.proc.add(42, comm=b"sh", exe="/bin/sh", cmdline=b"sh\0-c\0", start=100, ppid=1)
    entries = world.send((FORK, 1, 1, 41, 41), (FORK, 41, 41, 42, 42), tick=99)
    entries += world.send((FORK, 42, 42, 43, 43), tick=100)
    entries += world.send((EXEC, 42, 42), (FORK, 42, 42, 44, 44), (FORK, 8, 8, 45, 45), tick=101)
    for pid in (41, 43, 44, 45):
        entries += world.send((EXIT, pid, pid, 0, 17, 1, 1), tick=102)
    tape.close()
    judge = Judge(load_config(str(world.directory / "procwatchd.yaml")))
    found = [(facts, judge.judge(facts)) for facts in Past(options(path)).events()]
    living = [facts.values["PID"] for facts, _ in found if facts.is_living]
    assert {7, 8} <= set(living)
    decided = [
        (str(facts.values["PID"]), facts.event, outcome.rule and outcome.rule.name)
        for facts, outcome in found
        if not facts.is_living
    ]
    told = [
        (entry["PROCWATCH_PID"], entry["PROCWATCH_EVENT"], entry.get("PROCWATCH_RULE"))
        for entry in entries
        if "PROCWATCH_PID" in entry
    ]
    assert decided == told
    assert ("44", "exit", "below") in told
    assert ("45", "exit", "below") in told
    assert ("43", "exit", None) in told


def test_a_recording_has_what_the_entries_have_not(world: World, tmp_path: Path) -> None:
    path = tmp_path / "tape"
    tape = Tape(str(path))
    world.worker = Worker(
        world.config("log: {fields: [pid]}"),
        BatchQueue(),
        world.writer,
        StillClock(),
        world.users,
        proc=str(world.proc.root),
        tape=tape,
    )
    world.worker.scan()
    world.proc.add(42, comm=b"a", exe="/bin/a", cmdline=b"a\0--password=hunter2\0", start=100)
    world.send((FORK, 1, 1, 42, 42), (EXEC, 42, 42))
    tape.close()
    (facts,) = Past(options(path)).events()
    assert facts.values["CMDLINE"] == b"a --password=hunter2"
    assert facts.values["CWD"] == b"/srv"


def test_nobody_else_reads_a_recording_and_none_is_written_over(tmp_path: Path) -> None:
    path = tmp_path / "tape"
    old = os.umask(0)
    try:
        Tape(str(path)).close()
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for bad in (str(path), "a\0b", str(tmp_path / "none" / "tape")):
        with pytest.raises(TapeError):
            Tape(bad)


def test_the_daemon_does_not_start_where_it_cannot_record(tmp_path: Path) -> None:
    path = tmp_path / "tape"
    path.write_text("precious")
    (tmp_path / "c.yaml").touch()
    command = [sys.executable, "-m", "procwatchd", "-c", str(tmp_path / "c.yaml"), "--record", str(path)]
    environment = {**os.environ, "RUNTIME_DIRECTORY": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == f"procwatchd: cannot record to a new file {path}: File exists\n"
    assert (done.returncode, path.read_text()) == (2, "precious")


def test_a_recording_that_is_full_says_so(tmp_path: Path) -> None:
    path = tmp_path / "tape"
    tape = Tape(str(path), limit_bytes=3000)
    record = Record("exec", process(), 0, "proc", "same")
    for _ in range(99):
        tape.write(record)
    tape.end(lost=2, gaps=3)
    tape.close()
    past = Past(options(path))
    assert len(list(past.events())) == 99 - tape.unwritten
    assert 0 < tape.unwritten < 99
    assert path.stat().st_size <= 3000
    assert past.skipped.count == 0
    assert read_end(str(path)) == End(tape.unwritten, 2, 3)


def test_of_a_disk_that_is_full_no_record_is_lost_uncounted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tape"
    tape = Tape(str(path))
    record = Record("exec", process(), 0, "proc", "same")
    tape.write(record)
    tape.flush()
    whole = path.read_bytes()
    write = os.write
    room = [100]

    def until_full(fd: int, data: bytes) -> int:
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, data[: room.pop()])

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", until_full)
        for _ in range(3):
            tape.write(record)
        assert tape.unwritten == 0
        tape.flush()
    assert (tape.unwritten, path.read_bytes()) == (3, whole)
    tape.write(record)
    tape.end(lost=0, gaps=0)
    tape.close()
    past = Past(options(path))
    assert (len(list(past.events())), past.skipped.count) == (1, 0)
    assert read_end(str(path)) == End(4, 0, 0)


@pytest.mark.parametrize("kept", [-1, -10, 30, 0])
def test_a_recording_that_was_cut_off_is_not_called_whole(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "tape"
    tape = Tape(str(path))
    tape.write(Record("exec", process(), 0, "proc", "same"))
    tape.end(lost=0, gaps=0)
    tape.close()
    assert read_end(str(path)) == End(0, 0, 0)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]) + lines[-1][:kept])
    assert read_end(str(path)) == (End(0, 0, 0) if kept == -1 else None)


def test_what_cannot_be_read_twice_is_not_called_whole(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert [read_end(path) for path in ("-", str(tmp_path / "pipe"))] == [None, None]


@pytest.mark.parametrize("gaps", [(), ("FORKS_MISSED",), ("failed",), ("records_lost",), ("signals_lost",)])
def test_the_daemon_says_at_the_end_what_is_not_in_its_recording(
    world: World, tmp_path: Path, gaps: tuple[str, ...]
) -> None:
    path = tmp_path / "tape"
    world.worker = Worker(
        world.config("{}"),
        BatchQueue(),
        world.writer,
        StillClock(),
        world.users,
        proc=str(world.proc.root),
        tape=Tape(str(path)),
    )
    world.worker.scan()
    world.send((FORK, 1, 1, 42, 42), kernel_drops=3)
    for count, of in enumerate(gaps, 1):
        if of == "FORKS_MISSED":
            world.worker.fork_watch.check(0)
            assert world.worker.fork_watch.untold(count) == count
        elif of == "failed":
            world.worker.ledger.failed += count
        else:
            lost: dict[str, Any] = {of: count}
            world.worker.take_in([Batch(b"", kernel_drops=3, **lost)])
    world.worker.start(lambda: None)
    assert read_end(str(path)) is None
    world.worker.stop()
    world.worker.close()
    assert read_end(str(path)) == End(0, 3, len(gaps))


def test_who_may_not_read_the_journal_is_told_which_group_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "system.journal"
    assert "no journal" in journal.why_unreadable((str(file),), ())
    file.touch()
    assert journal.why_unreadable((str(file),), ()) == ""
    monkeypatch.setattr(os, "access", lambda _path, _mode: False)
    assert "the group " in journal.why_unreadable((str(file),), ())
