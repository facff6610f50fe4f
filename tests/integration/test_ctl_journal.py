# SPDX-License-Identifier: MIT
"""procwatchctl on a real journal: it finds the daemon's entries, and believes no others."""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from procwatchd.ctl.main import main
from procwatchd.ctl.past.entries import Entries
from procwatchd.ctl.past.filters import parse_filter

REMOTE = "/lib/systemd/systemd-journal-remote"
UNIT = {"_SYSTEMD_UNIT": "procwatchd.service"}
RULES = "rules: [{name: odd, match: {comm|contains: odd}, action: drop}, {name: rest, match: {event: exec}}]"


def exported(at_seconds: int, fields: Mapping[str, str | bytes]) -> bytes:
    """An entry in the journal's export format."""
    lines = [b"__REALTIME_TIMESTAMP=%d\n" % (at_seconds * 1_000_000), b"_BOOT_ID=" + b"1" * 32 + b"\n"]
    for name, value in fields.items():
        data = value if isinstance(value, bytes) else value.encode()
        lines.append(name.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n")
    return b"".join(lines) + b"\n"


def event(pid: int, kind: str = "exec", **more: str | bytes) -> dict[str, str | bytes]:
    fields: dict[str, str | bytes] = {"EVENT": kind, "PID": str(pid), "COMM": b"a\xff\n", **more}
    fields |= {"MONOTONIC_USEC": "1", "IDENTITY": "same", "SOURCE": "proc"}
    return {f"PROCWATCH_{name}": value for name, value in fields.items()}


@pytest.fixture
def directory(tmp_path: Path) -> str:
    made = tmp_path / "journal"
    made.mkdir()
    entries: list[Mapping[str, str | bytes]] = [
        UNIT | event(1, EXE="/bin/a (deleted)", UID="0"),
        UNIT | event(2, COMM=b"odd\xff\n", CMDLINE="x" * 100_000),
        {"_SYSTEMD_UNIT": "evil.service"} | event(3),
        UNIT | event(4, kind="exit", EXIT_CODE="0"),
        UNIT | {"PROCWATCH_EVENT": "summary", "PROCWATCH_COUNT": "8"},
        UNIT | {"MESSAGE": "of the service manager"},
    ]
    data = b"".join(exported(1_000_000_000 + at, entry) for at, entry in enumerate(entries))
    command = [REMOTE, "-o", str(made / "system.journal"), "-"]
    subprocess.run(command, input=data, check=True, capture_output=True)
    return str(made)


@pytest.fixture
def rules(tmp_path: Path) -> str:
    path = tmp_path / "rules.yaml"
    path.write_text(RULES)
    return str(path)


def run(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_rules_are_tried_on_what_the_daemon_sent(
    directory: str, rules: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run(capsys, "test", rules, "-D", directory)
    assert found["events"] == 3
    assert {rule["name"]: rule["decided"] for rule in found["rules"]} == {"odd": 1, "rest": 1}
    assert found["absent"]["summarised"] == 8
    assert found["skipped"]["count"] == 1
    found = run(capsys, "test", rules, "-D", directory, "--since", "@1000000001", "--until", "@1000000002")
    assert found["events"] == 1


def test_one_event_is_found_by_its_cursor_and_by_its_process(
    directory: str, rules: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("explain", "-c", rules, "-D", directory)
    assert run(capsys, *words)["values"]["PID"] == "4"
    assert run(capsys, *words, "--event", "exec")["values"]["PID"] == "2"
    found = run(capsys, *words, "--pid", "2")
    assert (found["values"]["COMM"], found["action"]) == ("odd\\xff\\x0a", "drop")
    text = subprocess.run(
        ["journalctl", "-D", directory, "-o", "json", "PROCWATCH_PID=1"], check=True, capture_output=True
    ).stdout
    assert run(capsys, *words, "--cursor", json.loads(text)["__CURSOR"])["values"]["PID"] == "1"
    for none in (
        ("--pid", "3"),
        ("--cursor", "x"),
        ("--cursor", json.loads(text)["__CURSOR"].replace("i=1", "i=9")),
    ):
        assert main([*words, *none]) == 2
        assert capsys.readouterr().err.startswith("procwatchctl: ")


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("pid=1",),
        ("pid=1", "pid=4"),
        ("pid!=1",),
        ("event=exit",),
        ("event!=exec",),
        ("event=summary",),
        ("exe=/bin/a",),
        ("exe=*/a",),
        ("comm=odd*",),
        ("comm|contains=odd", "event=exec"),
        ("cmdline|startswith=xxx",),
        ("euid=0",),
        ("exit-code=0",),
        ("exit-code!=1", "event=exit"),
    ],
)
def test_filters_find_in_the_journal_what_they_find_in_a_file(directory: str, words: tuple[str, ...]) -> None:
    """The journal's index finds a part of it, and the rest is looked at."""
    command = ["journalctl", "-D", directory, "-o", "json", "--all"]
    lines = subprocess.run(command, check=True, capture_output=True).stdout
    file = Path(directory).parent / "lines"
    file.write_bytes(lines)

    def found(**where: str | None) -> list[str]:
        options = argparse.Namespace(
            **{"file": None, "directory": None, "since": None, "until": None, **where}
        )
        return [entry["__CURSOR"] for entry in Entries(options, parse_filter(words))]

    assert found(directory=directory) == found(file=str(file))
    assert found(directory=directory) != []


def test_a_directory_that_is_none_is_named(
    tmp_path: Path, rules: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["test", rules, "-D", str(tmp_path / "none")]) == 2
    assert f"{tmp_path}/none" in capsys.readouterr().err


def test_what_is_exported_is_what_journalctl_has(directory: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "-D", directory]) == 0
    ours = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    command = ["journalctl", "-D", directory, "-o", "json", "--all", "_SYSTEMD_UNIT=procwatchd.service"]
    shown = subprocess.run(command, check=True, capture_output=True).stdout.splitlines()
    theirs = [one for one in map(json.loads, shown) if "PROCWATCH_EVENT" in one]
    assert len(ours) == 4
    assert ours == theirs
