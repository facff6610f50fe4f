# SPDX-License-Identifier: MIT
"""`procwatchctl status`: what the metrics say, and first whether all is well."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from procwatchd import __version__
from procwatchd.ctl.health import status
from procwatchd.ctl.health.metricsfile import SIZE_LIMIT_BYTES, find_runner, read_metrics
from procwatchd.ctl.health.status import EQUATIONS, KNOWN, imbalances
from procwatchd.ctl.main import main
from procwatchd.ledger import Ledger
from procwatchd.metrics import metrics_text
from procwatchd.runtime import RuntimeDirectory
from tests.unit.test_worker import World

TERMS = {
    **dict.fromkeys(Ledger().terms(logged=0, unwritten=0, pending=0), 0),
    "PRODUCED": 1000,
    "FILTERED": 300,
    "RECEIVED": 700,
    "UNNEEDED": 400,
    "CONSIDERED": 298,
    "PENDING": 2,
    "LOGGED": 280,
    "DROPPED": 18,
    "PROCESSES": 77,
    "QUEUED": 3,
    "BEHIND_USEC": 31_000,
    "FORKS": 10,
    "FORKS_MISSED": 0,
    "FORKS_KERNEL": 11,
    "BLIND": 0,
    "ARGV_CUT": 0,
    "SAMPLES_SKIPPED": 5,
}
NOT_RUNNING = "does not run, or this is a copy: this is what it had counted when it last wrote"
Rules: TypeAlias = dict[tuple[str | None, str], int]
RULES: Rules = {("noise", "drop"): 18, (None, "log"): 280}


def metrics(
    directory: Path, terms: dict[str, int] | None = None, more: str = "", *, rules: Rules | None = None
) -> str:
    path = directory / "metrics.prom"
    path.write_text(metrics_text(TERMS | (terms or {}), rules or {}) + more)
    return str(path)


def found(capsys: pytest.CaptureFixture[str], path: str) -> Any:
    assert main(["status", "--metrics", path, "--json"]) == 0
    text = capsys.readouterr().out
    assert text.isascii()
    return json.loads(text)


def shown(capsys: pytest.CaptureFixture[str], path: str) -> str:
    assert main(["status", "--metrics", path]) == 0
    return capsys.readouterr().out


def test_what_the_daemon_writes_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = found(capsys, metrics(tmp_path, rules=RULES))
    assert status["counts"] == TERMS
    assert (status["version"], status["is_balanced"]) == (__version__, True)
    assert status["problems"] == [NOT_RUNNING]
    assert status["rules"] == [
        {"rule": None, "action": "log", "events": 280},
        {"rule": "noise", "action": "drop", "events": 18},
    ]
    assert (status["runs"], status["rates"], status["is_stale"]) == (False, {}, False)


def test_a_healthy_daemon_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.closing(RuntimeDirectory(str(tmp_path))):
        lines = shown(capsys, metrics(tmp_path, rules=RULES)).splitlines()
    assert re.match(rf"procwatchd \S+ runs as process {os.getpid()} since \w+ \d+ [\d:]+ \(.*\)$", lines[0])
    flow = r"events: 700 \(.*/.*\) received, 280 \(.*/.*\) logged, 5 waiting, 31ms behind · mean rates"
    assert re.match(flow, lines[1])
    assert lines[2] == "nothing is lost, and the ledger adds up"
    text = "\n".join(lines)
    assert re.search(r" 18 +\S+ +drop  noise", text)
    assert re.search(r"280 +\S+ +log  \(no rule\)", text)
    assert re.search(r"5  SAMPLES_SKIPPED", text)
    assert "ARGV_CUT" not in text


@pytest.mark.parametrize(
    ("terms", "told"),
    [
        ({"LOST": 5, "PRODUCED": 1005}, "LOST since it started: 5 events"),
        ({"UNWRITTEN": 1, "LOGGED": 279}, "LOST since it started: 1 entries that journald did not take"),
        ({"BLIND": 1}, "BLIND: the kernel tells of no events"),
        ({"FAILURES": 2}, "2 events met an error of the daemon's own"),
        ({"PRODUCED": 1003}, "PRODUCED is 3 more than RECEIVED + FILTERED + LOST"),
        ({"LOGGED": 281}, "CONSIDERED is 1 less than LOGGED + DROPPED"),
        ({"UNNEEDED": 0}, "RECEIVED is 400 more than MALFORMED + FOREIGN"),
        ({"FORKS_KERNEL": 15}, "the kernel's count of forks is 5 ahead"),
        ({"FORKS": 15}, "the kernel's count of forks is 4 behind"),
        ({"RECORDER_LOST": 4}, "fields are missing: 4 recorded execs or signals lost"),
    ],
)
def test_what_is_not_as_it_should_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], terms: dict[str, int], told: str
) -> None:
    path = metrics(tmp_path, terms)
    text = shown(capsys, path)
    assert told in text
    assert "nothing is lost" not in text
    (problem,) = (one for one in found(capsys, path)["problems"] if one != NOT_RUNNING)
    assert told in problem


def test_of_a_daemon_that_does_not_run_nothing_is_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = metrics(tmp_path)
    text = shown(capsys, path)
    assert NOT_RUNNING in text
    assert "nothing is lost" not in text
    monkeypatch.setattr(status, "METRICS_FILE", path)
    assert main(["status"]) == 0
    assert (
        f"procwatchd {__version__} {NOT_RUNNING.replace(', or this is a copy', '')}\n"
        in capsys.readouterr().out
    )
    with contextlib.closing(RuntimeDirectory(str(tmp_path))):
        assert found(capsys, path)["problems"] == []


def test_what_a_later_version_tells_is_no_limits_cost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    later = (
        "procwatchd_shiny_total 4\nprocwatchd_lag_seconds 0.012\n"
        'procwatchd_lag_bucket{le="1"} 5\nprocwatchd_lag_bucket{le="2"} 9\n'
    )
    path = metrics(tmp_path, {"UNLOCATED": 3}, more=later)
    text = shown(capsys, path)
    limits, _, others = text.partition("what limits have cost")[2].partition("others")
    assert re.findall(r"\S+ +([A-Z_]+)", limits) == ["SAMPLES_SKIPPED"]
    assert re.findall(r"(\S+) +([A-Z_]+)", others) == [("0.012", "LAG_SECONDS"), ("4", "SHINY")]
    assert "3  of LOST, that the kernel's numbers do not show yet" in text
    assert "lines that are not procwatchd's" not in text
    counts = found(capsys, path)["counts"]
    assert (counts["SHINY"], counts["LAG_SECONDS"], "LAG_BUCKET" in counts) == (4, 0.012, False)


def test_all_that_the_daemon_counts_has_its_place(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.start("")
    assert {*world.worker.terms(), *world.worker.more_terms(None)} - KNOWN == set()


def test_the_equations_are_the_ledgers() -> None:
    assert {*EQUATIONS, *(term for of in EQUATIONS.values() for term in of)} == {
        *Ledger().terms(logged=0, unwritten=0, pending=0)
    }
    assert imbalances({"PRODUCED": 1}) == [
        "there is no CONSIDERED, COUNTED, DROPPED, FILTERED, FOREIGN, LIMITED, LOGGED, LOST, MALFORMED, PENDING, "
        "RECEIVED, UNNEEDED, UNWRITTEN"
    ]


def test_a_daemon_that_writes_no_more_hangs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = metrics(tmp_path)
    old = time.time() - 600
    os.utime(path, (old, old))
    assert "STALE" not in shown(capsys, path)  # nobody runs
    with contextlib.closing(RuntimeDirectory(str(tmp_path))):
        assert "STALE: written 10min 0s ago" in shown(capsys, path)
        assert found(capsys, path)["is_stale"]
    assert "does not run, or this is a copy" in shown(capsys, path)


def test_who_runs_is_seen_without_touching_the_lock(tmp_path: Path) -> None:
    path = metrics(tmp_path)
    assert find_runner(path) is None
    with contextlib.closing(RuntimeDirectory(str(tmp_path))):
        runner = find_runner(path)
        assert runner is not None
        assert runner.pid == os.getpid()
        assert runner.since_usec is not None
        assert 0 < runner.since_usec < time.time_ns() // 1000
    assert find_runner(path) is None
    assert find_runner(path, proc=str(tmp_path)) is None


def test_without_a_file_nobody_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    none = str(tmp_path / "metrics.prom")
    assert main(["status", "--metrics", none]) == 2
    assert capsys.readouterr().err == f"procwatchctl: there is no {none}\n"
    monkeypatch.setattr(status, "METRICS_FILE", none)
    monkeypatch.setattr("procwatchd.ctl.health.metricsfile.METRICS_FILE", none)
    assert main(["status"]) == 2
    assert "procwatchd does not run here, or not as a service: there is no" in capsys.readouterr().err


def test_what_is_no_metrics_file_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other, huge, pipe = tmp_path / "other", tmp_path / "huge", tmp_path / "pipe"
    other.write_bytes(b"\xff\x00 not\nprocwatchd_lost_total nan\nprocwatchd_ 1\n")
    huge.write_bytes(b"a" * (SIZE_LIMIT_BYTES + 1))
    os.mkfifo(pipe)
    for path, told in (
        (other, "has no metrics of procwatchd's"),
        (huge, "is longer than"),
        (pipe, "is no file"),
        (tmp_path, "Is a directory"),
        ("a\0b", "cannot read"),
    ):
        assert main(["status", "--metrics", str(path)]) == 2
        assert told in capsys.readouterr().err


def test_odd_lines_are_counted_and_hostile_names_are_clean(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = (
        '\x1b[31m{rule="x"} 1\nprocwatchd_rule_events_total{rule="[bold]\u202e:smile:",action="a\x7f"} 7\n'
    )
    path = metrics(tmp_path, more=hostile)
    text = shown(capsys, path)
    assert "lines that are not procwatchd's: 1 in " in text
    assert "[bold]\\xe2\\x80\\xae:smile:" in text
    assert [letter for letter in text if not (letter.isprintable() or letter == "\n")] == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
def test_no_file_is_too_odd(tmp_path: Path, more: bytes) -> None:
    path = tmp_path / "metrics.prom"
    path.write_bytes(metrics_text(TERMS, {}).encode() + more)
    assert read_metrics(str(path)).counts.keys() >= TERMS.keys()


def follow(capsys: pytest.CaptureFixture[str], path: str, *steps: dict[str, int]) -> list[Any]:
    """What is told while the file is written again and again, a minute apart."""
    monkeypatch = pytest.MonkeyPatch()
    left = list(steps)
    at = time.time() - 60 * (len(steps) + 1)
    os.utime(path, (at, at))

    def sleep(_seconds: float) -> None:
        nonlocal at
        if not left:
            raise KeyboardInterrupt
        at += 60
        metrics(Path(path).parent, left.pop(0))
        os.utime(path, (at, at))

    with monkeypatch.context() as patch:
        patch.setattr(time, "sleep", sleep)
        assert main(["status", "-f", "--metrics", path, "--json"]) == 130
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_live_rates_are_those_between_two_writings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = {"PRODUCED": 1600, "FILTERED": 900}
    first, second, third = follow(
        capsys, metrics(tmp_path), more, more | {"PRODUCED": 1720, "FILTERED": 1020}
    )
    assert first["rates"] == {}
    assert (second["rates"]["PRODUCED"], third["rates"]["PRODUCED"]) == (10.0, 2.0)
    assert (third["rates_seconds"], third["rates"]["LOGGED"]) == (60.0, 0.0)


def test_a_daemon_that_was_started_anew_has_no_rates_yet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _first, second = follow(capsys, metrics(tmp_path), dict.fromkeys(TERMS, 0))
    assert second["rates"] == {}
