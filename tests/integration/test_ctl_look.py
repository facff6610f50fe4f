# SPDX-License-Identifier: MIT
"""`procwatchctl log` and `tree` on a real journal: its index finds one process among others, and who started it."""

from __future__ import annotations

import contextlib
import json
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from procwatchd.ctl.main import main
from tests.integration.test_ctl_journal import REMOTE, UNIT, event, exported

NOW = int(time.time())
LONG_AGO = NOW - 7 * 3600


def started(pid: int, of: int, comm: str, **more: str) -> dict[str, str | bytes]:
    ids = {"PROCESS_ID": f"{pid}-1", "PPID": str(of), "PARENT_PROCESS_ID": f"{of}-1"}
    return UNIT | event(pid, COMM=comm, **ids, **more) | {"MESSAGE": f"exec {comm}[{pid}]", "_HOSTNAME": "vm"}


def ended(pid: int, of: int, comm: str, **more: str) -> dict[str, str | bytes]:
    end = {"PROCWATCH_EVENT": "exit", "PROCWATCH_EXIT_CODE": "0", "MESSAGE": f"exit {comm}[{pid}]"}
    return started(pid, of, comm, **more) | end


def add(directory: str, at_seconds: int, *entries: Mapping[str, str | bytes]) -> None:
    data = b"".join(
        b"__MONOTONIC_TIMESTAMP=%d\n" % ((at_seconds + at - LONG_AGO + 1) * 1_000_000)
        + exported(at_seconds + at, entry)
        for at, entry in enumerate(entries)
    )
    command = [REMOTE, "-o", f"{directory}/{at_seconds}.journal", "-"]
    subprocess.run(command, input=data, check=True, capture_output=True)


@pytest.fixture
def directory(tmp_path: Path) -> str:
    made = tmp_path / "journal"
    made.mkdir()
    old = started(12, 1, "old") | {"PROCWATCH_PROCESS_ID": "12-0"}
    above = "sub[11] sh[10]"  # between the two is one that was forked alone, and has no entry
    add(
        str(made),
        LONG_AGO,
        old,
        started(10, 1, "sh", SESSION="3"),
        started(12, 11, "cc1", ANCESTORS=above, SESSION="3"),
        ended(12, 11, "cc1", ANCESTORS=above, SESSION="3"),
        UNIT | {"PROCWATCH_EVENT": "loss", "PROCWATCH_COUNT": "4", "PROCWATCH_LOST_WHERE": "kernel"},
    )
    add(str(made), NOW - 60, started(20, 1, "now"), ended(20, 1, "now"))
    return str(made)


def output(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main(list(words)) == 0
    return capsys.readouterr().out


def messages(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    return [json.loads(line)["MESSAGE"] for line in output(capsys, "log", *words, "--json").splitlines()]


def test_from_an_end_back_to_where_it_came_from(directory: str, capsys: pytest.CaptureFixture[str]) -> None:
    own = ["exec sh[10]", "exec cc1[12]", "exit cc1[12]"]
    assert messages(capsys, "-D", directory, "--pid", "12") == own
    assert messages(capsys, "-D", directory, "--process-id", "12-1", "--since", f"@{LONG_AGO + 3}") == [
        "exec sh[10]",
        "exit cc1[12]",
    ]
    assert messages(capsys, "-D", directory, "--process-id", "12-0") == ["exec old[12]"]
    assert main(["log", "-D", directory, "--pid", "4"]) == 2


def test_the_last_entries_and_their_form(directory: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert messages(capsys, "-D", directory, "-n", "2") == ["exec now[20]", "exit now[20]"]
    assert messages(capsys, "-D", directory, "-n", "1", "comm=*c1") == ["exit cc1[12]"]
    assert messages(capsys, "-D", directory, "-n", "9", "--since", "-1h") == ["exec now[20]", "exit now[20]"]
    ours = [json.loads(line) for line in output(capsys, "log", "-D", directory, "--json").splitlines()]
    command = ["journalctl", "-D", directory, "-o", "json", "--all"]
    theirs = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert ours == [json.loads(line) for line in theirs.splitlines()]


def test_the_trees_of_the_last_hour_or_of_one_process(
    directory: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def pids(*words: str) -> tuple[set[int], int]:
        found = json.loads(output(capsys, "tree", "-D", directory, *words, "--json"))
        todo: list[Any] = [node for boot in found["boots"] for node in boot["children"]]
        seen = set()
        while todo:
            node = todo.pop()
            seen |= {node["sample"]["pid"]} if node["seen"] else set()
            todo += node["children"]
        return seen, found["absent"]["lost"]

    assert pids() == ({20}, 0)
    assert "the last hour" in output(capsys, "tree", "-D", directory)
    assert main(["plot", "-D", directory, "-o", "none.svg", "exe=/none"]) == 2
    assert "the last hour; --since asks for more" in capsys.readouterr().err
    assert pids("--since", "-1d") == ({10, 12, 20}, 4)
    assert pids("--pid", "12") == ({12}, 4)
    assert pids("--process-id", "11-1") == ({12}, 4)  # which is known as a parent alone
    assert pids("--pid", "1") == ({20}, 0)  # known as a parent alone: the last hour
    assert pids("--session", "3") == ({10, 12}, 4)
    assert pids("--since", "-1d", "comm=cc1") == ({12}, 4)
    assert main(["tree", "-D", directory, "--pid", "4"]) == 2


def test_what_a_process_started_before_its_own_first_entry_is_below_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tmp_path / "journal"
    made.mkdir()
    lasted = {"PROCWATCH_DURATION_USEC": str(7 * 3_600_000_000)}
    add(str(made), LONG_AGO, started(31, 30, "a"), ended(31, 30, "a"))
    add(str(made), NOW - 60, ended(30, 1, "sh"), ended(41, 40, "b") | lasted)

    def since(pid: int) -> tuple[int, int]:
        found = json.loads(output(capsys, "tree", "-D", str(made), "--pid", str(pid), "--json"))
        return found["processes"], found["since_usec"] // 1_000_000

    assert since(30) == (2, LONG_AGO)
    assert since(41)[1] == NOW - 60 + 1 - 7 * 3600


@contextlib.contextmanager
def following(directory: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "procwatchd.ctl.main", "log", "-f", "-D", directory, *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.terminate()


def next_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    assert select.select([process.stdout], [], [], 60)[0], "nothing comes"
    return process.stdout.readline()


def test_what_comes_is_shown_after_the_last_few(directory: str) -> None:
    with following(directory, "-n", "1", "comm=*ow") as process:
        assert next_line(process).endswith("exit now[20]\n")
        add(directory, NOW, started(21, 1, "other"), started(22, 1, "anyhow"))
        assert next_line(process).endswith("exec anyhow[22]\n")


def test_where_there_was_nothing_the_first_is_shown(directory: str) -> None:
    with following(directory, "--since", f"@{NOW + 10}", "comm=later") as process:
        add(directory, NOW + 20, started(23, 1, "later"))
        assert next_line(process).endswith("exec later[23]\n")
