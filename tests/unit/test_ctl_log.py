# SPDX-License-Identifier: MIT
"""`procwatchctl log`: entries as they come, and one process's from its end back to where it came from."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from procwatchd.ctl.main import main
from procwatchd.ctl.past import progress
from tests.unit.ctlentries import entry, life, write
from tests.unit.test_ctl import HOSTILE, ROOT, run

SH = {"COMM": "sh", "EXE": "/usr/bin/dash", "CMDLINE": "sh build"}


def lines(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    capsys.readouterr()
    assert main(["log", *words]) == 0
    # Times are by the local zone.
    return [re.sub(r"^[-0-9]{10} [0-9:]{8}", "TIME", line) for line in capsys.readouterr().out.splitlines()]


def test_entries_are_lines_or_objects(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = life(11, 10, 1000) + life(12, 10, 5000, "/usr/bin/ld")
    file = write(tmp_path, made, ["{"])
    assert lines(capsys, "--file", file) == [
        "TIME exec cc1[11]",
        "TIME exit cc1[11]",
        "TIME exec ld[12]",
        "TIME exit ld[12]",
        "1 lines or entries passed over:",
        f"  {file}:5: not JSON, or cut off",
    ]
    assert lines(capsys, "--file", file, "exe=*/ld", "event=exec")[0] == "TIME exec ld[12]"
    assert lines(capsys, "--file", file, "-n", "1")[0] == "TIME exit ld[12]"
    assert lines(capsys, "--file", file, "exe=/none")[0] == "-- No entries --"
    assert [json.loads(line) for line in lines(capsys, "--file", file, "--json")] == made


def test_what_is_left_out_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hidden = entry("exec", 5, 1, CMDLINE="curl -u '<redacted:password:0a0b0c0d>'")
    file = write(tmp_path, [hidden | {"PROCWATCH_EXE": None}], ["{"])
    told = "1 entries left out: they do not hold what the filter asks for"
    capsys.readouterr()
    assert main(["log", "--file", file, "exe=/bin/sh", "--json"]) == 0
    assert capsys.readouterr().err.startswith(told)
    assert lines(capsys, "--file", file, "exe=/bin/sh")[:2] == ["-- No entries --", told]
    assert main(["log", "--file", file, "--json"]) == 0
    assert f"{file}:2: not JSON, or cut off" in capsys.readouterr().err


def test_json_is_what_journalctl_gives(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = entry("exec", 5, 1) | {"PROCWATCH_COMM": [255, 10], "PROCWATCH_SAMPLE": ["a", [0, 1]], "BIG": None}
    assert json.loads(lines(capsys, "--file", write(tmp_path, [odd]), "--json")[0]) == odd


def test_the_host_is_shown_from_the_second_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = [one | {"_HOSTNAME": "two"} for one in life(12, 10, 5000)]
    assert lines(capsys, "--file", write(tmp_path, life(11, 10, 1000), other))[1:3] == [
        "TIME exit cc1[11]",
        "TIME two exec cc1[12]",
    ]


def test_who_started_whom_is_to_the_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start, end = life(11, 10, 2000, "/usr/bin/make")
    # 9 has no entry of its own, so it is no step.
    file = write(
        tmp_path,
        [entry("exec", 10, 1, **SH, ANCESTORS="x[9]"), start],
        life(12, 11, 2100),
        [end],
        life(13, 9, 4000),
    )
    assert lines(capsys, "--file", file, "--tree") == [
        "TIME exec sh[10]",
        "TIME   exec make[11]",
        "TIME     exec cc1[12]",
        "TIME     exit cc1[12]",
        "TIME   exit make[11]",
        "TIME exec cc1[13]",
        "TIME exit cc1[13]",
    ]


def test_from_an_end_back_to_where_it_came_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = life(12, 99, 100, "/usr/bin/old", PROCESS_ID="12-0")  # had the same PID
    before = [one | {"PROCWATCH_PROCESS_ID": "12-0"} for one in before]
    start, end = life(11, 10, 2000, "/usr/bin/make")
    own = life(12, 11, 2100, ANCESTORS="make[11] sh[10]")
    late = entry("exec", 10, 9000, **SH | {"COMM": "late"})  # after what it started had been started
    file = write(
        tmp_path, before, [entry("exec", 10, 1000, **SH), start], own, life(13, 11, 3000), [end, late]
    )
    shown = ["TIME exec sh[10]", "TIME exec make[11]", "TIME exec cc1[12]", "TIME exit cc1[12]"]
    assert lines(capsys, "--file", file, "--pid", "12") == shown
    assert lines(capsys, "--file", file, "--process-id", "12-1", "--json") != []
    assert lines(capsys, "--file", file, "--process-id", "12-0") == ["TIME exec old[12]", "TIME exit old[12]"]
    assert lines(capsys, "--file", file, "--pid", "12", "-n", "2") == shown[2:]
    assert lines(capsys, "--file", file, "--pid", "12", "event=exit") == shown[3:]
    assert main(["log", "--file", file, "--pid", "77"]) == 2
    assert capsys.readouterr().err == "procwatchctl: there is no entry of a process with PID 77\n"
    assert main(["log", "--file", file, "--pid", "12", "--follow"]) == 2


def test_of_machines_that_come_in_turns_the_last_process_is_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = life(12, 10, 1000, "/usr/bin/ours")
    theirs = [
        one | {"_BOOT_ID": "c" * 32, "_HOSTNAME": "two"} for one in life(12, 10, 2000, "/usr/bin/theirs")
    ]
    late = life(12, 99, 100, "/usr/bin/old")[1] | {"PROCWATCH_PROCESS_ID": "12-0"}
    file = write(tmp_path, [ours[0], theirs[0], late, ours[1], theirs[1]])
    assert [line.rpartition(" e")[2] for line in lines(capsys, "--file", file, "--pid", "12")] == [
        "xec theirs[12]",
        "xit theirs[12]",
    ]
    file = write(tmp_path, ours, [late])
    assert lines(capsys, "--file", file, "--pid", "12") == ["TIME exec ours[12]", "TIME exit ours[12]"]


def test_a_file_is_followed_to_its_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, life(11, 10, 1000), life(12, 10, 5000))
    assert lines(capsys, "--file", file, "-f", "-n", "1") == ["TIME exit cc1[12]"]
    assert len(lines(capsys, "--file", file, "-f")) == 4


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("-n", "0"), "-n/--lines: it is a number from 1 on"),
        (("--pid", "x"), "--pid: it is a number from 1 on"),
        (("--pid", "5", "--process-id", "5-1"), "not allowed with argument --pid"),
    ],
)
def test_what_cannot_be_asked_for(
    words: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["log", *words])
    assert told in capsys.readouterr().err


def test_how_far_it_is_is_shown_until_there_is_something(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "with_progress", lambda entries: (one | {"BEFORE": "1"} for one in entries))
    entries = [entry("exec", pid, pid) for pid in (1, 2, 3, 4)]
    found = progress.search(iter(entries), lambda one: one["PROCWATCH_PID"] in "24")
    assert [one.get("BEFORE") for one in found] == ["1", None]


def test_colours_are_by_kind_and_priority_and_of_nobody_else(tmp_path: Path) -> None:
    bad = {"PRIORITY": "3", "MESSAGE": f"exec {HOSTILE}"}
    file = write(
        tmp_path,
        life(11, 10, 1, EXIT_CODE=1),
        [entry("exec", 5, 9000) | bad, entry("loss", 0, 9001, COUNT=1)],
    )
    out, status = run("log", "--file", file, PAGER="cat")
    assert status == 0
    good, failed, hostile, loss = out.replace("\r\n", "\n").splitlines()
    assert good.endswith("\x1b[0m \x1b[32mexec\x1b[0m cc1[11]")
    assert failed.endswith("\x1b[0m \x1b[31mexit\x1b[0m cc1[11]")
    assert re.sub(r"\x1b\[[0-9;]*m", "", hostile).isprintable()
    assert hostile.endswith(
        "\x1b[32mexec\x1b[0m \x1b[1;31m\\x1b[31mred\\x07\\xe2\\x80\\xae[bold]:smile:\\xff\x1b[0m"
    )
    assert "\x1b[1;31mloss\x1b[0m" in loss
    assert "\x1b" not in run("log", "--file", file, PAGER="cat", NO_COLOR="1")[0]


def test_what_comes_is_shown_at_once_and_an_interrupt_ends_it() -> None:
    command = [sys.executable, "-m", "procwatchd.ctl.main", "log", "--follow", "--file", "-"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for pid in (5, 6):
            made: dict[str, Any] = entry("exec", pid, 1)
            os.write(process.stdin.fileno(), json.dumps(made).encode() + b"\n")
            assert select.select([process.stdout], [], [], 60)[0]
            assert process.stdout.readline().endswith(b"exec ?[%d]\n" % pid)
        process.send_signal(signal.SIGINT)
        assert process.communicate()[1] == b""
    assert process.returncode == 0
