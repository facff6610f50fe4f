# SPDX-License-Identifier: MIT
"""`doctor` on this kernel, with a real daemon and a real journald: what is broken is found, and what is not is not."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from procwatchd import __version__
from procwatchd.ctl.errors import CtlError
from procwatchd.ctl.health.doctor import examine
from procwatchd.ctl.health.system import Finding, Level, System, run_command
from tests.integration.journald import PrivateJournald
from tests.integration.running import IN_UNIT, ROOT, RunningDaemon, in_unit
from tests.unit.fakemachine import DAY, METRICS, NOW, STOPPED, UNIT, Machine, told

SMALL = "capture: {receive-buffer: 64K}\nlog: {unmatched: drop}\n"


def run(words: Sequence[str]) -> str:
    """There is no service manager here."""
    if words[0] == "systemctl":
        raise CtlError("systemctl: no such thing")
    return run_command(words)


@pytest.fixture
def system(tmp_path: Path, journald: PrivateJournald, monkeypatch: pytest.MonkeyPatch) -> System:
    """The machine, with that journal, and the daemon's directories."""
    journals = tmp_path / "root/var/log/journal"
    journals.mkdir(parents=True)
    (journals / Path("/etc/machine-id").read_text().strip()).symlink_to(journald.logs)
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "daemon/run"))
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "daemon/state"))
    return System(run=run, journal_root=str(tmp_path / "root"))


@pytest.fixture
def daemon(tmp_path: Path, journald: PrivateJournald) -> Iterator[RunningDaemon]:
    with (
        in_unit() as unit,
        RunningDaemon(tmp_path / "daemon", SMALL, journald=journald, program=IN_UNIT, UNIT=unit) as one,
    ):
        yield one


def look(system: System) -> dict[str, list[Finding]]:
    found: dict[str, list[Finding]] = {}
    for findings in examine(system).values():
        for finding in findings:
            found.setdefault(finding.check, []).append(finding)
    return found


def test_this_kernel_is_able_and_nothing_is_left_of_having_asked(system: System) -> None:
    before = Path("/proc/net/netlink").read_text().count(f" {os.getpid()} ")
    found = look(system)
    for name in (
        "kernel",
        "namespaces",
        "capabilities",
        "events",
        "receive buffer",
        "accounting",
        "recorder",
    ):
        assert [finding.level for finding in found[name]] == [Level.OK], found[name]
    assert Path("/proc/net/netlink").read_text().count(f" {os.getpid()} ") == before


def test_a_healthy_daemon_is_found_so(
    system: System, daemon: RunningDaemon, journald: PrivateJournald
) -> None:
    daemon.statistics()
    journald.sync()
    begun = time.monotonic()
    found = look(system)
    assert time.monotonic() - begun < 5
    assert system.daemon_pid == daemon.pid
    for name in (
        "events",
        "entries",
        "forgeries",
        "losses",
        "blindness",
        "table",
        "version",
        "redaction key",
    ):
        assert {finding.level for finding in found[name]} == {Level.OK}, found[name]
    (room,) = found["room"]
    assert (room.level, "too short a time" in room.found) == (Level.OK, True), room


def test_the_buffer_is_said_to_be_smaller_than_configured(
    system: System, daemon: RunningDaemon, journald: PrivateJournald
) -> None:
    daemon.statistics()
    journald.sync()
    (buffer,) = look(system)["receive buffer"]
    assert buffer.level is Level.WARN
    assert buffer.values["granted"] == 65536


def test_an_entry_of_another_process_is_found_with_who_sent_it(
    system: System, daemon: RunningDaemon, journald: PrivateJournald
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as forger:
        forger.sendto(b"MESSAGE=exec: su\nPROCWATCH_EVENT=exec\nPROCWATCH_PID=1\n", journald.socket_path)
    daemon.statistics()
    journald.sync()
    (finding,) = look(system)["forgeries"]
    assert finding.level is Level.FAIL
    assert finding.values["count"] == 1
    assert f"PID {os.getpid()}, UID 0" in finding.found
    assert f"_PID={os.getpid()}" in finding.advice


def test_a_daemon_that_stopped_is_not_said_to_run(
    system: System, daemon: RunningDaemon, journald: PrivateJournald
) -> None:
    daemon.statistics()
    daemon.stop()
    journald.sync()
    assert system.daemon_pid is None
    found = look(system)
    assert "no daemon runs" in found["version"][0].found
    assert "table" not in found


def test_a_daemon_that_hangs_and_one_of_another_version_are_found(
    system: System, daemon: RunningDaemon, journald: PrivateJournald, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.statistics()
    journald.sync()
    monkeypatch.setattr("procwatchd.ctl.health.service.__version__", "99")
    (version,) = look(system)["version"]
    assert (version.level, version.values["running"]) == (Level.WARN, __version__)
    assert "systemctl restart procwatchd" in version.advice
    metrics = daemon.directory / "run/metrics.prom"
    os.utime(metrics, (1, 1))
    (hangs,) = look(system)["metrics"]
    assert hangs.level is Level.FAIL


def test_in_another_namespace_it_fails_and_says_so() -> None:
    command = [
        "unshare",
        "--pid",
        "--fork",
        "--mount-proc",
        sys.executable,
        "-m",
        "procwatchd.ctl.main",
        "doctor",
    ]
    done = subprocess.run([*command, "--json"], capture_output=True, check=False, cwd=ROOT)
    assert done.returncode == 1, done.stderr
    found = {one["check"]: one for one in json.loads(done.stdout)["findings"]}
    assert found["namespaces"]["level"] == "FAIL"
    assert "another pid namespace" in found["namespaces"]["found"]


def test_without_root_it_says_what_it_could_not_look_at() -> None:
    command = [
        "setpriv",
        "--reuid=65534",
        "--clear-groups",
        sys.executable,
        "-m",
        "procwatchd.ctl.main",
        "doctor",
    ]
    done = subprocess.run([*command, "--json"], capture_output=True, check=False, cwd=ROOT)
    found = {one["check"]: one for one in json.loads(done.stdout)["findings"]}
    for name in ("events", "accounting"):
        assert found[name]["level"] == "WARN"
        assert "needs root" in found[name]["found"]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    return Machine(tmp_path)


@pytest.mark.parametrize(
    ("entries", "days"), [(50, "SystemMaxUse=4G\nSystemKeepFree=1"), (50, "SystemMaxUse=1K")]
)
def test_how_many_days_fit_is_by_what_was_written(machine: Machine, entries: int, days: str) -> None:
    machine.settings = days
    machine.journal(
        *(told("exec", PID=n, AGE=(entries - n) * 7_200_000_000 // entries) for n in range(entries))
    )
    (room,) = machine.found("room")
    values = room.values
    # The file is much larger than what is in it.
    assert values["entries_per_day"] == pytest.approx(entries * 12, rel=0.01)
    used = sum(path.stat().st_blocks * 512 for path in machine.root.rglob("*.journal"))
    assert values["used"] == used
    assert 0 < int(str(values["bytes_per_entry"])) <= used / entries
    fits = (
        int(str(values["limit"])) / int(str(values["bytes_per_entry"])) / int(str(values["entries_per_day"]))
    )
    assert values["days"] == pytest.approx(fits, rel=0.01, abs=0.01)
    assert room.level is (Level.OK if fits > 7 else Level.FAIL)


def test_what_is_missing_between_entries_is_added_up(machine: Machine) -> None:
    machine.journal(
        told("loss", COUNT=5, LOST_WHERE="kernel", AGE=2 * DAY),
        told("start", VERSION=__version__, RECEIVE_BUFFER=1 << 20, AGE=5_000_000),
        told("loss", COUNT=3, LOST_WHERE="kernel"),
        told("loss", COUNT=4, LOST_WHERE="queue"),
        told("blind", SINCE_USEC=1),
        {"_SYSTEMD_UNIT": "systemd-journald.service", "MESSAGE_ID": "a596d6fe7bfa4994828e72309e95d61e"}
        | {"MESSAGE": f"Suppressed 12 messages from {UNIT}", "N_DROPPED": "12", "_TRANSPORT": "driver"},
    )
    (loss,) = machine.found("losses")
    assert loss.level is Level.WARN
    assert loss.values["lost"] == {"kernel": 3, "queue": 4}
    assert machine.found("blindness")[0].level is Level.WARN
    (dropped,) = [one for one in machine.found("rate limit") if one.level is Level.FAIL]
    assert "dropped 12 entries" in dropped.found
    assert dropped.values == {"dropped": 12}
    (buffer,) = machine.found("receive buffer")
    assert (buffer.level, buffer.values["granted"]) == (Level.WARN, 1 << 20)


def suppressed(count: str, unit: str = UNIT, **more: str) -> dict[str, str]:
    entry = {"_TRANSPORT": "driver", "MESSAGE_ID": "a596d6fe7bfa4994828e72309e95d61e"}
    return entry | {"MESSAGE": f"Suppressed {count} messages from {unit}", "N_DROPPED": count} | more


def test_that_journald_dropped_entries_is_its_own_word_alone(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    forged = suppressed("99", _TRANSPORT="journal")
    machine.journal(suppressed("7"), forged, forged, suppressed("5", f"not-{UNIT}"), suppressed("9" * 30))
    (dropped,) = [one for one in machine.found("rate limit") if one.level is Level.FAIL]
    assert dropped.values == {"dropped": 7}
    assert "dropped 7 entries" in dropped.found
    monkeypatch.setattr("procwatchd.ctl.health.storage.SUPPRESSED_LIMIT", 3)
    (dropped,) = [one for one in machine.found("rate limit") if one.level is Level.FAIL]
    assert "dropped at least 7 entries" in dropped.found


@pytest.mark.parametrize(
    ("settings", "limit"),
    [
        ("SystemMaxUse=4G\nSystemMaxFiles=3\nSystemMaxFileSize=16M", 48 << 20),
        ("SystemMaxUse=1G\nSystemMaxFiles=2", 256 << 20),
        ("SystemMaxUse=64M\nSystemMaxFiles=0", 64 << 20),
    ],
)
def test_files_have_limits_as_well(machine: Machine, settings: str, limit: int) -> None:
    machine.settings = f"SystemKeepFree=1\n{settings}\n"
    machine.journal(*[told("exec") for _ in range(10)])
    assert machine.found("room")[0].values["limit"] == limit


def test_what_is_kept_for_a_time_alone_is_not_said_to_be_kept_for_longer(machine: Machine) -> None:
    machine.settings = "SystemMaxUse=4G\nSystemKeepFree=1\nMaxRetentionSec=2day\n"
    machine.journal(*(told("exec", AGE=(50 - n) * 144_000_000) for n in range(50)))
    (room,) = machine.found("room")
    assert (room.level, room.values["days"]) == (Level.WARN, 2)
    assert "MaxRetentionSec" in room.advice


def test_journals_of_others_are_not_in_this_ones_room(machine: Machine) -> None:
    machine.journal(*[told("exec") for _ in range(10)])
    used = machine.found("room")[0].values["used"]
    for place in ("remote", "b" * 32, f"{'a' * 32}.space"):
        machine.write(f"var/log/journal/{place}/system.journal", "x" * (1 << 20))
    assert machine.found("room")[0].values["used"] == used


def test_a_machine_that_slept_is_not_said_to_hang(machine: Machine) -> None:
    slept = 8 * 3_600_000_000
    awake = {"__MONOTONIC_TIMESTAMP": str(NOW // 10 - 60_000_000)}
    machine.journal(told("statistics", AGE=slept + 60_000_000) | awake)
    machine.metrics(METRICS, age_seconds=slept // 1_000_000 + 60)
    assert [one.level for one in machine.found("entries") + machine.found("table")] == [Level.OK] * 2
    machine.metrics(METRICS, age_seconds=slept // 1_000_000 + 600)
    assert [one.level for one in machine.found("metrics")] == [Level.FAIL]


@pytest.mark.parametrize(
    ("note", "level"),
    [
        ("arguments by /proc alone: capture.arguments is proc", Level.OK),
        ("ends only as far as the connector tells of them: capture.accounting is off", Level.OK),
        ("arguments by /proc alone: there is no BTF", Level.WARN),
    ],
)
def test_what_was_not_asked_for_is_not_missing(machine: Machine, note: str, level: Level) -> None:
    machine.journal(told("start") | {"MESSAGE": f"start: procwatchd 1; {note}; kept over the restart: marks"})
    assert [one.level for one in machine.found("start")] == [level]


def test_a_start_that_is_in_the_journal_no_longer_is_told(machine: Machine) -> None:
    machine.journal(told("statistics"))
    (found,) = machine.found("start")
    assert (found.level, "no longer in the journal" in found.found) == (Level.WARN, True)
    machine.unit = STOPPED
    assert machine.found("start") == []


def test_a_buffer_that_was_configured_later_takes_a_restart(machine: Machine) -> None:
    machine.journal(told("start", RECEIVE_BUFFER=1 << 20, AGE=3_600_000_000), told("reload"))
    path = machine.root / "etc/procwatchd.yaml"
    for age, words in ((60, "restart procwatchd"), (7200, "CAP_NET_ADMIN")):
        os.utime(path, (NOW / 1e6 - age,) * 2)
        (found,) = machine.found("receive buffer")
        assert found.level is Level.WARN
        assert words in found.advice


def test_a_reload_that_was_refused_took_nothing(machine: Machine) -> None:
    refused = told("reload") | {"MESSAGE": "reload: bad configuration, keeping the previous one: a: b"}
    machine.journal(told("start", VERSION=__version__, AGE=3_600_000_000), refused)
    os.utime(machine.root / "etc/procwatchd.yaml", (NOW / 1e6 - 60,) * 2)
    assert [one.level for one in machine.found("configuration")] == [Level.OK, Level.WARN]


def test_old_losses_are_no_reason_to_worry(machine: Machine) -> None:
    machine.journal(told("loss", COUNT=5, AGE=2 * DAY), told("blind", AGE=3 * DAY), told("statistics"))
    for check in ("losses", "blindness"):
        (found,) = machine.found(check)
        assert found.level is Level.OK
        assert "none in the last day" in found.found


def test_a_daemon_that_runs_and_writes_nothing_is_not_heard(machine: Machine) -> None:
    machine.journal(told("statistics", AGE=3_600_000_000))
    assert [one.level for one in machine.found("entries")] == [Level.FAIL]
    machine.unit = STOPPED
    assert [one.level for one in machine.found("entries")] == [Level.OK]


def test_entries_of_others_are_told_with_who_sent_them(machine: Machine) -> None:
    forged = {"PROCWATCH_EVENT": "exec", "MESSAGE": "exec: su", "_UID": "1000", "_PID": "4711"}
    named = {"_EXE": "/tmp/e\x1bvil, PID 1", "_SYSTEMD_UNIT": "session-3.scope"}
    machine.journal(
        *[told("exec", PID=n) for n in range(20)], forged | named, forged | named, forged, told("exit")
    )
    (found,) = machine.found("forgeries")
    assert (found.level, found.values["count"]) == (Level.FAIL, 3)
    assert r"2 by $'/tmp/e\x1bvil, PID 1', PID 4711, UID 1000, session-3.scope" in found.found
    assert "1 by an unknown program, PID 4711, UID 1000" in found.found


def test_forgeries_behind_many_entries_are_found_by_the_index(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("procwatchd.ctl.health.journal_entries.LATEST", 3)
    forged = {"PROCWATCH_EVENT": "exec", "_PID": "1", "AGE": str(2 * DAY), "_SYSTEMD_UNIT": "x.service"}
    machine.journal(forged | {"_UID": "0"}, forged | {"_UID": "1000"}, *[told("exec") for _ in range(20)])
    (found,) = machine.found("forgeries")
    assert (found.level, found.values["count"]) == (Level.WARN, 2)
    machine.write("etc/passwd", "root:x:0:0::/root:/bin/sh\n")
    (found,) = machine.found("forgeries")
    assert (found.level, found.values["count"]) == (Level.WARN, 2)


def test_a_clock_that_was_set_is_seen(machine: Machine) -> None:
    entries = [told("statistics"), told("statistics"), told("statistics")]
    entries[2] |= {"__MONOTONIC_TIMESTAMP": str(NOW // 10 - 3_600_000_000)}
    machine.journal(*entries)
    (found,) = machine.found("clock")
    assert found.level is Level.WARN
    assert "1 times" in found.found


def test_a_configuration_that_was_not_loaded_yet_is_told(machine: Machine) -> None:
    machine.journal(told("start", VERSION=__version__))
    path = machine.root / "etc/procwatchd.yaml"
    os.utime(path, (NOW / 1e6 - 3600,) * 2)
    assert [one.level for one in machine.found("configuration")] == [Level.OK]
    os.utime(path, (NOW / 1e6,) * 2)
    assert [one.level for one in machine.found("configuration")] == [Level.OK, Level.WARN]
