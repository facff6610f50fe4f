# SPDX-License-Identifier: MIT
"""From READY to the end: signals, reload, statistics, watchdog, and whose output goes away."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.actor import Actor
from tests.integration.ledger import PREFIX, check_end, check_sums, read_metrics, terms_of
from tests.integration.running import PATIENCE_SECONDS, PROCWATCHD, RunningDaemon, environment, of

DROP_ALL = "log: {unmatched: drop}"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_stops(tmp_path: Path, steps: str, number: int) -> None:
    with RunningDaemon(tmp_path, "capture: {events: all}") as daemon:
        pids = []
        for _ in range(20):
            with Actor(steps, "fork") as actor:
                actor.end()
            pids.append(actor.pid)
        # What has ended by now is in the socket, and is not lost.
        assert daemon.stop(number) == 0
        assert daemon.errors == []
        for pid in pids:
            assert [one[f"{PREFIX}EVENT"] for one in daemon.having(of("exit", pid=pid))] == ["exit"]
        stop = daemon.entries[-1]
        assert stop[f"{PREFIX}EVENT"] == "stop"
        terms = check_end(stop)
        assert terms["LOST"] == terms["UNWRITTEN"] == 0
        events = [one for one in daemon.entries if f"{PREFIX}PID" in one]
        assert terms["LOGGED"] == len(events)
        assert [one[f"{PREFIX}EVENT"] for one in daemon.entries if one not in events] == ["start", "stop"]
        assert daemon.notified.index("READY=1") < daemon.notified.index("STOPPING=1")


def test_a_signal_asks_for_statistics(tmp_path: Path, steps: str) -> None:
    with RunningDaemon(tmp_path) as daemon:
        with Actor(steps) as actor:
            pass
        daemon.wait_entry(of("exit", pid=actor.pid))
        entry = daemon.statistics()
        terms = terms_of(entry)
        check_sums(terms)
        assert terms["LOGGED"] > 0
        assert terms["LOST"] == 0
        # The entry comes out before the file is in place; the next one waits for both.
        last = terms_of(daemon.statistics())
        deadline = time.monotonic() + PATIENCE_SECONDS
        while read_metrics(tmp_path)["RECEIVED"] != last["RECEIVED"]:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert {name: read_metrics(tmp_path)[name] for name in last} == last
        check_end(stop_entry(daemon))


def stop_entry(daemon: RunningDaemon) -> dict[str, object]:
    assert daemon.stop() == 0
    return daemon.entries[-1]


def reload(daemon: RunningDaemon, config: str) -> list[str]:
    """Have the daemon read this configuration; what it told its manager meanwhile."""
    since = len(daemon.notified)
    daemon.config.write_text(config)
    daemon.process.send_signal(signal.SIGHUP)
    reloading = daemon.wait_notified("RELOADING=1", since=since)
    ready = daemon.wait_notified("READY=1", since=reloading)
    status = daemon.wait_notified("STATUS=", since=ready)
    return daemon.notified[reloading : status + 1]


def rule_of_a_process(daemon: RunningDaemon, steps: str) -> object:
    with Actor(steps) as actor:
        entry = daemon.wait_entry(of("exec", pid=actor.pid))
    return entry.get(f"{PREFIX}RULE")


def test_reload(tmp_path: Path, steps: str) -> None:
    rules = "rules: [{name: %s, match: {event: exec}}]"
    with RunningDaemon(tmp_path, rules % "old") as daemon:
        assert rule_of_a_process(daemon, steps) == "old"

        before_usec = time.monotonic_ns() // 1000
        told = reload(daemon, rules % "new")
        assert told[1].startswith("MONOTONIC_USEC=")
        assert before_usec <= int(told[1].partition("=")[2]) <= time.monotonic_ns() // 1000
        assert "1 rule from" in daemon.wait_entry(of("reload"))["MESSAGE"]
        assert rule_of_a_process(daemon, steps) == "new"

        told = reload(daemon, "rules: [{name: bad, match: {no-such-field: 1}}]\nunknown: 1\n")
        place = f"{daemon.config}:1:"
        assert "keeping the previous" in told[-1]
        assert place in told[-1]
        entry = daemon.wait_entries(of("reload"), 2)[1]
        assert str(entry["PRIORITY"]) == "4"
        assert place in entry["MESSAGE"]
        assert f"{daemon.config}:2:" in entry["MESSAGE"]
        assert rule_of_a_process(daemon, steps) == "new"

        told = reload(daemon, rules % "newest")
        assert "keeping" not in told[-1]
        daemon.wait_entries(of("reload"), 3)
        assert rule_of_a_process(daemon, steps) == "newest"
        check_end(stop_entry(daemon))


def test_what_rules_drop_is_counted(tmp_path: Path, steps: str) -> None:
    with RunningDaemon(tmp_path, f"capture: {{events: all}}\n{DROP_ALL}") as daemon:
        with Actor(steps, "fork") as actor:
            actor.end()
        terms = check_end(stop_entry(daemon))
        assert terms["DROPPED"] >= 5
        assert terms["LOGGED"] == 0


def test_the_watchdog_is_petted(tmp_path: Path) -> None:
    with RunningDaemon(tmp_path, DROP_ALL, WATCHDOG_USEC="500000") as daemon:
        first = daemon.wait_notified("WATCHDOG=1")
        daemon.wait_notified("WATCHDOG=1", since=first + 1)


def test_a_second_one_is_refused(tmp_path: Path) -> None:
    with RunningDaemon(tmp_path, DROP_ALL) as daemon:
        second = subprocess.run(
            daemon.command, env=environment(tmp_path), capture_output=True, text=True, check=False
        )
        assert second.returncode == 75
        assert str(tmp_path / "run") in second.stderr
        assert second.stdout == ""
        assert daemon.process.poll() is None


@contextlib.contextmanager
def started(directory: Path, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    """A daemon that writes text to a pipe, with nobody around it; ended where the test did not end it."""
    config = directory / "procwatchd.yaml"
    config.write_text("capture: {events: all}")
    with subprocess.Popen(
        [sys.executable, *PROCWATCHD, "-c", config, "--output", "text"],
        env=environment(directory, **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def next_line(process: subprocess.Popen[bytes], part: bytes) -> bytes:
    """The next line with this in it; what is before is skipped, at the end of the output it is empty."""
    assert process.stdout is not None
    return next((line for line in process.stdout if part in line), b"")


def errors_of(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stderr is not None
    return process.stderr.read()


def test_the_reader_of_the_output_goes_away(tmp_path: Path, steps: str) -> None:
    """As with `procwatchd | head -1`."""
    with started(tmp_path) as process:
        assert next_line(process, b" start: procwatchd")
        assert process.stdout is not None
        process.stdout.close()
        with Actor(steps):
            pass
        assert process.wait(PATIENCE_SECONDS) == 0
        assert errors_of(process) == b""


def test_a_manager_that_cannot_be_told_changes_nothing(tmp_path: Path, steps: str) -> None:
    with started(tmp_path, NOTIFY_SOCKET=str(tmp_path / "no-such-socket")) as process:
        assert next_line(process, b" start: procwatchd"), errors_of(process)
        with Actor(steps) as actor:
            assert next_line(process, b" exec steps[%d] " % actor.pid)
        assert next_line(process, b" exit steps[%d] " % actor.pid)
        process.terminate()
        assert next_line(process, b" stop: ")
        assert process.wait(PATIENCE_SECONDS) == 0
        assert errors_of(process) == b""
