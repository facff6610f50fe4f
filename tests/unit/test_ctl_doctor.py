# SPDX-License-Identifier: MIT
"""`doctor` on machines that are made of files and of what commands say."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import tempfile
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from procwatchd.ctl.errors import CtlError
from procwatchd.ctl.health.doctor import doctor, examine
from procwatchd.ctl.health.machine import buffer_finding
from procwatchd.ctl.health.service import clock
from procwatchd.ctl.health.system import PROPERTIES, Level, System, run_command
from procwatchd.ctl.main import main
from tests.unit.fakemachine import HEALTHY, MACHINE_ID, METRICS, NOW, OPTIONS, Machine

# Most of it is about who may read what.
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    return Machine(tmp_path)


Change = Callable[[Machine], object]


def options(text: str) -> Change:
    return lambda machine: (machine.root / "proc/config.gz").write_bytes(gzip.compress(text.encode()))


def unit(**more: str) -> Change:
    return lambda machine: setattr(machine, "unit", HEALTHY | more)


def file(path: str, text: str) -> Change:
    return lambda machine: machine.write(path, text)


def metrics(age_seconds: int = 10, **more: int) -> Change:
    return lambda machine: machine.metrics(METRICS | more, age_seconds=age_seconds)


def settings(text: str) -> Change:
    return lambda machine: setattr(machine, "settings", text)


UNASKED = {"ActiveState": "inactive", "MainPID": "0", "ConditionResult": "no"}
KEY = "var/lib/procwatchd/redaction.key"
BROKEN: list[tuple[str, Change, Level, str]] = [
    ("kernel", options(OPTIONS.replace("PROC_EVENTS=y", "PROC_EVENTS is not set")), Level.FAIL, "no process"),
    ("kernel", options(OPTIONS.replace("CONFIG_TASKSTATS=y\n", "")), Level.WARN, "CONFIG_TASKSTATS: exits have no"),
    ("kernel", file("proc/sys/kernel/osrelease", "4.19.0\n"), Level.WARN, "older than what is tested"),
    ("namespaces", lambda m: m.link("proc/77/ns/pid", "pid:[4026539999]"), Level.FAIL, "another pid namespace"),
    ("namespaces", lambda m: m.link("proc/77/ns/net", "net:[4026539999]"), Level.FAIL, "another network namespace"),
    ("namespaces", lambda m: (m.root / "proc/77/ns/user").unlink(), Level.WARN, "cannot be seen"),
    ("capabilities", file("proc/77/status", "CapEff:\t0000004000081000\n"), Level.WARN, "no CAP_BPF: no recorder"),
    ("recorder", lambda m: (m.root / "sys/kernel/btf/vmlinux").unlink(), Level.WARN, "does not describe its types"),
    ("recorder", file("sys/kernel/security/lockdown", "none [confidentiality]"), Level.WARN, "locked down"),
    ("recorder", file("proc/sys/kernel/osrelease", "5.10.0\n"), Level.WARN, "older than 5.17"),
    ("sysctl", file("proc/sys/net/core/bpf_jit_enable", "0\n"), Level.WARN, "bpf_jit_enable is 0"),
    ("service", unit(ActiveState="failed", Result="exit-code", ExecMainStatus="78"), Level.FAIL, "the configuration"),
    ("service", unit(ActiveState="failed", Result="start-limit-hit"), Level.FAIL, "too often"),
    ("service", unit(ActiveState="failed", Result="oom-kill"), Level.FAIL, "failed: oom-kill"),
    ("service", unit(ActiveState="inactive", MainPID="0"), Level.FAIL, "though enabled"),
    ("service", unit(UnitFileState="disabled"), Level.WARN, "not enabled"),
    ("service", unit(LoadState="not-found", MainPID="0"), Level.WARN, "not installed"),
    ("service", unit(LoadState="masked", MainPID="0"), Level.FAIL, "masked: it does not start"),
    ("service", unit(LoadState="masked"), Level.FAIL, "masked: it runs, as process 77, but will not start again"),
    ("service", unit(LoadState="bad-setting", MainPID="0"), Level.FAIL, "cannot be loaded: bad-setting"),
    ("service", unit(ActiveState="activating"), Level.WARN, "it is activating, process 77"),
    ("service", unit(ActiveState="deactivating"), Level.WARN, "it is deactivating, process 77"),
    ("service", unit(UnitFileState="enabled-runtime"), Level.WARN, "enabled up to the next reboot"),
    ("service", unit(**UNASKED), Level.FAIL, "it is inactive, though enabled"),
    ("service", unit(**UNASKED, ConditionTimestampMonotonic="5"), Level.FAIL, "a condition of the unit"),
    ("journal namespace", unit(LogNamespace="audit"), Level.FAIL, "LogNamespace=audit"),
    ("service", lambda m: setattr(m, "unit", "systemctl did not answer"), Level.WARN, "did not answer"),
    ("restarts", unit(NRestarts="7"), Level.WARN, "7 times"),
    ("unit file", unit(NeedDaemonReload="yes"), Level.WARN, "changed since"),
    ("version", lambda m: m.metrics(METRICS, "0.0.1"), Level.WARN, "the daemon is 0.0.1"),
    ("configuration", file("etc/procwatchd.yaml", "log: {unmatched: maybe}\n"), Level.FAIL, "1 problems"),
    ("configuration", file("etc/procwatchd.yaml", "rules: [{name: a, match: {tags: x}}]\n"), Level.WARN, "never match"),
    ("permissions", lambda m: (m.root / "etc/procwatchd.yaml").chmod(0o600), Level.FAIL, "may not read"),
    ("redaction key", lambda m: (m.root / KEY).chmod(0o644), Level.FAIL, "its owner"),
    ("redaction key", lambda m: os.chown(m.root / KEY, 0, 0), Level.FAIL, "its owner, the daemon's user"),
    ("redaction key", lambda m: (m.root / KEY).unlink(), Level.WARN, "one run alone"),
    ("metrics", metrics(age_seconds=3600), Level.FAIL, "1h 0min ago"),
    ("metrics", lambda m: (m.root / "run/procwatchd/metrics.prom").unlink(), Level.WARN, "metrics.prom"),
    ("metrics", metrics(FAILURES=2), Level.FAIL, "2 events met an error"),
    ("events", metrics(BLIND=1), Level.FAIL, "tells the daemon of no events"),
    ("ledger", metrics(LOGGED=6), Level.WARN, "does not add up"),
    ("table", metrics(QUEUED=1_000_000), Level.WARN, "1,000,001 events wait"),
    ("storage", settings("Storage=none\n"), Level.FAIL, "stores nothing"),
    ("storage", settings("Storage=persistent\nStorage=volatile\n"), Level.WARN, "gone after a reboot"),
    ("storage", file(f"run/log/journal/{MACHINE_ID}/system.journal", ""), Level.WARN, "gone after a reboot"),
    ("rate limit", unit(LogRateLimitIntervalUSec="0"), Level.WARN, "10,000 entries in 30 s"),
    ("storage", settings("Storage=volatile\n"), Level.WARN, "gone after a reboot: Storage=volatile"),
    ("rate limit", unit(LogRateLimitIntervalUSec="1min 30s", LogRateLimitBurst="9000"), Level.WARN, "100 a second"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("check", "change", "level", "words"), BROKEN, ids=[f"{one[0]}-{one[3]}" for one in BROKEN]
)
def test_what_is_broken_is_found_and_nothing_else(
    machine: Machine, check: str, change: Change, level: Level, words: str
) -> None:
    assert all(one.level is Level.OK for one in machine.found(check))
    change(machine)
    bad = [one for one in machine.found(check) if one.level is level]
    assert any(words in one.found for one in bad), machine.found(check)


@pytest.mark.parametrize(
    ("mode", "gid", "is_readable"), [(0o640, 990, True), (0o640, 0, False), (0o604, 990, False)]
)
def test_the_daemons_group_counts_as_the_kernel_counts_it(
    machine: Machine, mode: int, gid: int, *, is_readable: bool
) -> None:
    path = machine.root / "etc/procwatchd.yaml"
    os.chown(path, 0, gid)
    path.chmod(mode)
    (found,) = machine.found("permissions")
    assert (found.level is Level.OK) is is_readable, found
    machine.write("proc/77/status", f"Uid:\t990\t990\t990\t990\nGid:\t1\nGroups:\t2 {gid}\n")
    (found,) = machine.found("permissions")
    assert (found.level is Level.OK) is (mode == 0o640)


def test_a_directory_of_rules_that_is_closed_to_the_daemon_is_found(machine: Machine) -> None:
    machine.write("etc/procwatchd.d/10-a.yaml", "log: {unmatched: drop}\n")
    assert [one.level for one in machine.found("permissions")] == [Level.OK]
    (machine.root / "etc/procwatchd.d").chmod(0o700)
    (found,) = machine.found("permissions")
    assert found.level is Level.FAIL
    assert found.found.endswith("etc/procwatchd.d")


def test_what_its_own_user_may_not_read_is_not_called_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    with tempfile.TemporaryDirectory() as name:
        machine = Machine(Path(name))
        Path(name).chmod(0o755)
        path = machine.root / "etc/procwatchd.yaml"
        os.chown(path, 0, 990)
        path.chmod(0o640)
        os.seteuid(65534)
        try:
            found = {one.check: one for one in examine(machine.system())["daemon"]}
        finally:
            os.seteuid(0)
    for check in ("configuration", "permissions"):
        assert found[check].level is Level.WARN, found[check]
        assert "you may not read" in found[check].found


def test_the_directories_of_whoever_calls_are_not_those_of_a_service(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/agent")
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/agent")
    assert [one.level for one in machine.found("table") + machine.found("redaction key")] == [Level.OK] * 2
    machine.unit = {"LoadState": "not-found", "MainPID": "0"}
    assert "/var/lib/agent" in machine.found("redaction key")[0].found


@pytest.mark.parametrize(
    ("state", "level", "words"),
    [(0, Level.OK, "synchronised"), (5, Level.WARN, "rtcsync"), (-1, Level.WARN, "not looked at")],
)
def test_the_clock_is_kept_right_or_not(
    state: int, level: Level, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("procwatchd.ctl.health.service._adjtimex", lambda: state)
    (found,) = clock(System())
    assert (found.level, words in found.found) == (level, True)


def test_where_the_newest_file_is_journald_stores(machine: Machine) -> None:
    assert machine.found("storage") == []
    kept, lost = (
        machine.write(f"{place}/log/journal/{MACHINE_ID}/system.journal", "") for place in ("var", "run")
    )
    for newer, older, level in ((kept, lost, Level.OK), (lost, kept, Level.WARN)):
        os.utime(newer, (NOW / 1e6,) * 2)
        os.utime(older, (NOW / 1e6 - 60,) * 2)
        assert [one.level for one in machine.found("storage")] == [level]
    assert "mkdir" not in machine.found("storage")[0].advice
    shutil.rmtree(machine.root / "var/log/journal")
    assert "systemd-tmpfiles" in machine.found("storage")[0].advice


def test_a_rate_limit_that_is_turned_off_is_none(machine: Machine) -> None:
    machine.unit = HEALTHY | {"LogRateLimitIntervalUSec": "0"}
    machine.settings = "RateLimitIntervalSec=0\n"
    assert [one.level for one in machine.found("rate limit")] == [Level.OK]
    machine.settings = "RateLimitIntervalSec=1min 30s\nRateLimitBurst=500\n"
    assert "500 entries in 90 s" in machine.found("rate limit")[0].found


def test_before_anything_is_installed_it_says_whether_the_machine_is_able(machine: Machine) -> None:
    machine.unit = {"LoadState": "not-found", "MainPID": "0"}
    for path in ("etc/procwatchd.yaml", "run/procwatchd/metrics.prom", "var/lib/procwatchd/redaction.key"):
        (machine.root / path).unlink()
    found = [one for findings in examine(machine.system()).values() for one in findings]
    assert {one.level for one in found} == {Level.OK, Level.WARN}
    assert [one.check for one in found if one.level is Level.WARN] == [
        "events",
        "accounting",
        "service",
        "journal",
    ]
    assert all(one.advice for one in found if one.level is Level.WARN)


def test_where_nothing_can_be_read_every_check_says_so(tmp_path: Path) -> None:
    def run(words: Sequence[str]) -> str:
        raise CtlError(f"{words[0]} cannot be run")

    found = [
        one for findings in examine(System(str(tmp_path), run, is_root=False)).values() for one in findings
    ]
    assert {"namespaces", "capabilities", "service", "storage"} <= {
        one.check for one in found if one.level is Level.WARN
    }


def test_without_a_list_of_options_the_connector_is_looked_at(machine: Machine) -> None:
    (machine.root / "proc/config.gz").write_bytes(b"\x1f\x8b broken")
    (found,) = machine.found("kernel")
    assert found.level is Level.OK
    machine.write("proc/net/connector", "Name            ID\n")
    (found,) = machine.found("kernel")
    assert found.level is Level.FAIL
    machine.write("boot/config-6.12.1-amd64", OPTIONS)
    assert machine.found("kernel")[0].level is Level.OK


@pytest.mark.parametrize(
    ("granted", "level"), [(64 << 20, Level.OK), (63 << 20, Level.WARN), (212992, Level.WARN)]
)
def test_a_buffer_is_enough_or_not(granted: int, level: Level) -> None:
    assert (
        buffer_finding(granted, min(granted, 64 << 20) if granted == 212992 else 64 << 20, "why").level
        is level
    )


@hypothesis.settings(deadline=None, max_examples=50)
@hypothesis.given(
    st.dictionaries(st.sampled_from(PROPERTIES), st.text(max_size=20).filter(lambda text: "\n" not in text))
)
def test_whatever_systemctl_says_there_is_a_finding(
    tmp_path_factory: pytest.TempPathFactory, said: dict[str, str]
) -> None:
    machine = Machine(tmp_path_factory.mktemp("machine"))
    machine.unit = said
    found = examine(machine.system())
    assert all(found.values())


def run(
    machine: Machine, capsys: pytest.CaptureFixture[str], *, strict: bool = False, is_json: bool = True
) -> tuple[int, Any]:
    capsys.readouterr()
    status = doctor(Namespace(json=is_json, strict=strict, no_pager=True), machine.system())
    out = capsys.readouterr().out
    return status, json.loads(out) if is_json else out


def test_the_exit_status_is_for_monitoring(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    status, found = run(machine, capsys)
    assert (status, found["worst"]) == (0, "WARN")
    assert run(machine, capsys, strict=True)[0] == 1
    machine.unit = HEALTHY | {"ActiveState": "failed", "Result": "watchdog"}
    status, found = run(machine, capsys)
    assert (status, found["worst"]) == (1, "FAIL")
    assert sum(found["counts"].values()) == len(found["findings"])


def test_lines_say_how_bad_it_is_and_what_to_do(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.unit = HEALTHY | {"StatusText": "a\x1b[31m[bold]", "UnitFileState": "disabled"}
    text = run(machine, capsys, is_json=False)[1]
    assert "\x1b" not in text
    assert r"a\x1b[31m[bold]" in text
    assert "→ systemctl enable procwatchd" in text
    assert text.splitlines()[-1].endswith(" FAIL")


def test_a_command_that_hangs_or_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("procwatchd.ctl.health.system.COMMAND_SECONDS", 0.1)
    for words, told_of in (
        (["sleep", "60"], "did not answer"),
        (["/none"], "cannot be run"),
        (["false"], "status 1"),
    ):
        with pytest.raises(CtlError, match=told_of):
            run_command(words)


def test_it_runs_here_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) in (0, 1)
    found = json.loads(capsys.readouterr().out)
    assert {"machine", "daemon", "journal"} == {one["subject"] for one in found["findings"]} - {"entries"}
