# SPDX-License-Identifier: MIT
"""Entries from files: the daemon's own alone, of the time that was asked for, and nothing of them is taken on trust."""

from __future__ import annotations

import argparse
import io
import json
import os
import pty
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from procwatchd.ctl.errors import CtlError
from procwatchd.ctl.main import main
from procwatchd.ctl.past import jsonlines, progress
from procwatchd.ctl.past.entries import NUMBER_LIMIT, TIME_LIMIT_USEC, Entries, number, realtime_usec, text_of
from procwatchd.ctl.past.filters import ALL, parse_filter
from procwatchd.ctl.past.jsonlines import Skipped, follow_objects, read_objects
from procwatchd.ctl.past.progress import with_progress

EXEC = {"PROCWATCH_EVENT": "exec", "PROCWATCH_PID": "5"}


def options(file: str, **rest: Any) -> argparse.Namespace:
    return argparse.Namespace(**{"file": file, "directory": None, "since": None, "until": None, **rest})


def written(directory: Path, *of: object) -> str:
    path = directory / "entries"
    path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in of))
    return str(path)


def test_the_daemons_entries_are_given_and_what_is_none_is_named(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        EXEC,
        EXEC | {"_SYSTEMD_UNIT": "procwatchd.service"},
        EXEC | {"_SYSTEMD_UNIT": "evil.service"},
        EXEC | {"_SYSTEMD_UNIT": ["procwatchd.service", "evil.service"]},
        {"PROCWATCH_EVENT": "statistics"},
        {"PROCWATCH_EVENT": "birth"},
        {"MESSAGE": "hello"},
        "{",
    )
    entries = Entries(options(file))
    assert [entry["PROCWATCH_EVENT"] for entry in entries] == ["exec", "exec", "statistics"]
    assert entries.skipped.count == 5
    assert entries.skipped.shown == [
        f"{file}:3: sent by another unit, in procwatchd's name",
        f"{file}:4: sent by another unit, in procwatchd's name",
        f"{file}:6: of a kind that this procwatchctl does not know",
        f"{file}:7: no entry of procwatchd's",
        f"{file}:8: not JSON, or cut off",
    ]


def test_only_what_is_wanted_is_given(tmp_path: Path) -> None:
    file = written(tmp_path, EXEC, EXEC | {"PROCWATCH_PID": "6"})
    assert [entry["PROCWATCH_PID"] for entry in Entries(options(file), parse_filter(["pid=6"]))] == ["6"]


def test_of_a_time_both_ends_are_given_and_what_has_none_is_passed_over(tmp_path: Path) -> None:
    times: list[str | None] = ["999999", "1000000", "1500000", "2000000", "2000001", None, "soon", "9" * 18]
    file = written(tmp_path, *({**EXEC, "__REALTIME_TIMESTAMP": when} for when in times))
    entries = Entries(options(file, since="@1", until="@2"))
    assert [entry["__REALTIME_TIMESTAMP"] for entry in entries] == times[1:4]
    assert [one.rpartition(": ")[2] for one in entries.skipped.shown] == ["without a time"] * 3
    assert entries.skipped.count == 3


@pytest.mark.parametrize("version", [1, 2, "x"])
def test_a_recording_is_no_file_of_entries(tmp_path: Path, version: object) -> None:
    with pytest.raises(CtlError, match="is a recording"):
        list(Entries(options(written(tmp_path, {"procwatchd-recording": version}, EXEC))))


def test_standard_input_is_a_file_that_can_be_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    def standard_input() -> io.TextIOWrapper:
        return io.TextIOWrapper(io.BytesIO(json.dumps(EXEC).encode()))

    monkeypatch.setattr(sys, "stdin", standard_input())
    assert list(Entries(options("-"))) == [EXEC]
    reader, writer = os.pipe()
    with open(reader) as file, open(writer, "w") as pipe:
        monkeypatch.setattr(sys, "stdin", file)
        monkeypatch.setattr(jsonlines, "WAIT_SECONDS", 0)
        entries = Entries(options("-"))
        followed = entries.follow(10)
        assert next(followed) is None  # there are no more yet
        print(
            json.dumps(EXEC) * 2,
            json.dumps(EXEC),
            "",
            json.dumps(EXEC),
            sep="\n",
            end="",
            file=pipe,
            flush=True,
        )
        assert next(followed) == EXEC
        assert next(followed) is None
        pipe.close()
        assert list(followed) == [EXEC]
    assert entries.skipped.shown == ["-:1: not JSON, or cut off"]


@given(st.lists(st.binary(max_size=9) | st.just(b"\n{}\n"), max_size=20))
def test_a_file_that_is_followed_is_read_as_any_other(parts: list[bytes]) -> None:
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryFile() as file:
        patch.setattr(jsonlines, "LINE_LIMIT_BYTES", 6)
        patch.setattr(jsonlines, "_CHUNK_BYTES", 4)
        file.write(b"".join(parts))
        told = [Skipped(), Skipped()]
        file.seek(0)
        at_once = list(read_objects(file, "x", told[0]))
        file.seek(0)
        assert list(follow_objects(file, "x", told[1])) == at_once
    assert told[0].shown == told[1].shown
    assert told[0].count == told[1].count


def test_a_recording_cannot_be_followed(tmp_path: Path) -> None:
    with pytest.raises(CtlError, match="is a recording"):
        list(Entries(options(written(tmp_path, {"procwatchd-recording": 1}, EXEC))).follow(0))


def test_the_last_of_a_file(tmp_path: Path) -> None:
    entries = [EXEC | {"PROCWATCH_PID": str(pid)} for pid in range(5)]
    assert Entries(options(written(tmp_path, *entries)), ALL).last(2) == entries[3:]


@pytest.mark.parametrize("file", ["none", ".", "a\0b"])
def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path, file: str) -> None:
    with pytest.raises(CtlError, match="cannot open"):
        list(Entries(options(str(tmp_path / file))))


def test_a_directory_without_journals_is_not_one_without_events(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text("rules: [{name: a, match: {pid: 1}}]")
    for directory, told in (
        (tmp_path, f"there is no journal in {tmp_path}\n"),
        (tmp_path / "none", "which is no directory that can be read\n"),
    ):
        assert main(["test", str(rules), "-D", str(directory)]) == 2
        assert capsys.readouterr().err.endswith(told)


@pytest.mark.parametrize("place", ["user.journal", "0123/system.journal"])
def test_journals_that_one_may_not_read_are_for_a_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    file = tmp_path / place
    file.parent.mkdir(exist_ok=True)
    file.touch()
    monkeypatch.setattr(os, "access", lambda _path, _mode: False)
    with pytest.raises(CtlError, match="they are for root and the group "):
        list(Entries(argparse.Namespace(file=None, directory=str(tmp_path), since=None, until=None)))


ODD = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.lists(st.integers(-1, 300) | st.none() | st.text() | st.lists(st.integers()))
    | st.dictionaries(st.text(), st.text())
)


@given(ODD)
def test_a_text_is_always_clean(value: object) -> None:
    assert text_of({"PROCWATCH_COMM": value}, "COMM").isprintable()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("sh", "sh"),
        ("\x1b[31m", "\\x1b[31m"),
        (b"a\xff", "a\\xff"),
        ([97, 255], "a\\xff"),
        (["first", "second"], "first"),
        ([[97, 255], "second"], "a\\xff"),
        ([[[97]]], ""),
        ([97, 300], ""),
        ([], ""),
        (7, ""),
        (None, ""),
    ],
)
def test_what_a_text_is(value: object, text: str) -> None:
    assert text_of({"PROCWATCH_COMM": value}, "COMM") == text


@given(ODD | st.integers().map(str) | st.from_regex(r"[0-9]{15,25}", fullmatch=True))
def test_a_number_is_one_that_calendars_and_others_can_take(value: object) -> None:
    found = number({"PROCWATCH_PID": value}, "PID")
    assert found is None or 0 <= found < NUMBER_LIMIT
    when = realtime_usec({"__REALTIME_TIMESTAMP": value})
    assert when is None or (when < TIME_LIMIT_USEC and time.localtime(when // 1_000_000))


@pytest.mark.parametrize(
    ("value", "expected"),
    [("0", 0), ("12", 12), (12, 12), ("-1", None), ("1.5", None), ("٣", None), ("", None), (" 1", None)],
)
def test_what_a_number_is(value: object, expected: int | None) -> None:
    assert number({"PROCWATCH_PID": value}, "PID") == expected


def shown_on_a_terminal(monkeypatch: pytest.MonkeyPatch, entries: list[dict[str, Any]]) -> str:
    """What a reading writes on a terminal that is standard error."""
    leader, follower = pty.openpty()
    monkeypatch.setenv("TERM", "xterm")
    with open(follower, "w", encoding="utf-8") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        assert list(with_progress(entries)) == entries
        terminal.write("over")
        terminal.flush()
        shown = b""
        while not shown.endswith(b"over"):
            shown += os.read(leader, 1 << 16)
    os.close(leader)
    return shown.decode().removesuffix("over")


def test_a_long_reading_says_how_far_it_is_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [EXEC | {"__REALTIME_TIMESTAMP": "1700000000000000"}] * 4
    assert shown_on_a_terminal(monkeypatch, entries) == ""
    monkeypatch.setattr(progress, "ENTRIES", 2)
    monkeypatch.setattr(progress, "SILENT_SECONDS", 0)
    shown = shown_on_a_terminal(monkeypatch, entries)
    assert "4 entries read, up to Nov 1" in shown
    assert shown.rpartition("4 entries")[2].endswith("\x1b[2K")  # and takes it away again


def test_elsewhere_it_says_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "ENTRIES", 1)
    monkeypatch.setattr(progress, "SILENT_SECONDS", 0)
    assert list(with_progress([EXEC] * 9)) == [EXEC] * 9
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")
