# SPDX-License-Identifier: MIT
"""The record on its way to a collector, for real on loopback, and the metrics on theirs to Prometheus."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from procwatchd.journal.entry import Entry, FieldValue
from procwatchd.journal.native import JournaldWriter
from tests.integration.fleet import (
    UNPACKED,
    Collector,
    Program,
    Upload,
    content_of,
    doubled_in,
    entries_in,
    free_port,
    is_open,
    libraries,
    name_of,
    program,
    wait_for,
)
from tests.integration.journald import PrivateJournald
from tests.integration.running import IN_UNIT, PATIENCE_SECONDS, ROOT, RunningDaemon, in_unit, of

FLEET = ROOT / "packaging/fleet"
ODD_NAME = b"carried\nline\xff"
# Not what the programs do that carry it: each sync of the journal takes a thread.
CARRIED = """
capture: {events: all}
log: {fields: all, unmatched: drop}
rules:
  - name: carried
    match: {cmdline|contains: /carried}
"""
# What makes an entry one of the daemon's here.
OWN: dict[str, FieldValue] = {"SYSLOG_IDENTIFIER": "procwatchd", "PROCWATCH_COMM": ODD_NAME}


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[Collector]:
    with Collector(tmp_path / "collector") as collector:
        yield collector


@pytest.fixture
def daemon(tmp_path: Path, journald: PrivateJournald) -> Iterator[RunningDaemon]:
    """A daemon that journald takes for the unit's."""
    place = tmp_path / "daemon"
    with (
        in_unit() as unit,
        RunningDaemon(place, CARRIED, journald=journald, program=IN_UNIT, UNIT=unit) as daemon,
    ):
        yield daemon


@pytest.fixture
def odd(tmp_path: Path) -> bytes:
    """A program whose name is neither one line nor UTF-8."""
    path = bytes(tmp_path) + b"/" + ODD_NAME
    Path(path.decode(errors="surrogateescape")).symlink_to("/bin/true")
    return path


def start_some(odd: bytes, daemon: RunningDaemon, count: int = 20) -> None:
    """Start programs, and wait until all of it is in the host's journal."""
    known = len(daemon.having(of("exit")))
    for number in range(count):
        subprocess.run([odd, b"\xff\n", str(number).encode()], check=True)
    daemon.wait_entries(of("exit"), known + count)


def test_all_fields_arrive_byte_for_byte(
    daemon: RunningDaemon, journald: PrivateJournald, collector: Collector, odd: bytes, tmp_path: Path
) -> None:
    start_some(odd, daemon)
    daemon.statistics()
    daemon.stop()
    journald.sync()
    with Upload(tmp_path, collector.url, journald.logs) as host:
        host.wait_until_acknowledged()
    arrived = collector.entries()
    sent = entries_in(journald.logs)
    assert [*map(name_of, arrived)] == [*map(name_of, sent)]
    assert [*map(content_of, arrived)] == [*map(content_of, sent)]
    assert {entry["_SYSTEMD_UNIT"] for entry in arrived} == {"procwatchd.service"}
    assert sum(entry.get("PROCWATCH_COMM") == ODD_NAME for entry in arrived) >= 40
    assert {"start", "exec", "exit", "statistics", "stop"} <= {entry["PROCWATCH_EVENT"] for entry in arrived}


def test_after_an_outage_of_the_collector_all_is_there(
    daemon: RunningDaemon, journald: PrivateJournald, collector: Collector, odd: bytes, tmp_path: Path
) -> None:
    with Upload(tmp_path, collector.url, journald.logs) as host:
        start_some(odd, daemon)
        acknowledged = host.wait_until_acknowledged()
        collector.kill()
        start_some(odd, daemon)
        # What starts it again is its unit.
        assert host.wait() == 1, host.errors
        daemon.stop()
        collector.start()
        host.start()
        host.wait_until_acknowledged()
    arrived = collector.entries()
    assert {*map(name_of, arrived)} == {*map(name_of, entries_in(journald.logs))}
    # The one whose cursor was saved is sent again by systemd 252 and 257, and no other.
    assert doubled_in(arrived) in ([], [acknowledged])


def test_an_outage_amid_a_burst_costs_nothing(
    journald: PrivateJournald, collector: Collector, tmp_path: Path
) -> None:
    writer = JournaldWriter(journald.socket_path)
    for number in range(20_000):
        fields: dict[str, FieldValue] = {**OWN, "MESSAGE": str(number)}
        writer.write(Entry(fields, 1_000_000 + number, 1))
    assert writer.wait(PATIENCE_SECONDS)
    writer.close()
    journald.sync()
    with Upload(tmp_path, collector.url, journald.logs) as host:
        wait_for(lambda: any(collector.stored.glob("*.journal")), lambda: host.errors)
        collector.kill()
        assert host.wait() == 1, "all was delivered before the outage"
        assert len(collector.entries()) < 20_000
        collector.start()
        host.start()
        host.wait_until_acknowledged()
    arrived = {name_of(entry): content_of(entry) for entry in collector.entries()}
    # What was on its way comes twice; by its name it is the same.
    assert arrived == {name_of(entry): content_of(entry) for entry in entries_in(journald.logs)}


def test_by_tls_to_the_collector_that_the_authority_vouches_for_and_no_other(
    journald: PrivateJournald, tmp_path: Path
) -> None:
    for authority in ("fleet", "other"):
        make_certificates(tmp_path / authority, "127.0.0.1", "host.example")
    keys = tmp_path / "fleet"
    as_host = (
        f"--key={keys}/host.example.key",
        f"--cert={keys}/host.example.pem",
        f"--trust={keys}/ca.pem",
    )
    writer = JournaldWriter(journald.socket_path)
    writer.write(Entry({**OWN}, 1, 1))
    writer.close()
    journald.sync()
    with (
        Collector(tmp_path / "false", tls=tmp_path / "other/127.0.0.1") as false,
        Upload(tmp_path, false.url, journald.logs, *as_host) as host,
    ):
        assert host.wait() == 1
        assert "certificate" in host.errors
        assert not [*false.stored.iterdir()]
    with (
        Collector(tmp_path / "true", tls=keys / "127.0.0.1") as true,
        Upload(tmp_path, true.url, journald.logs, *as_host) as host,
    ):
        host.wait_until_acknowledged()
        assert [entry["PROCWATCH_COMM"] for entry in true.entries()] == [ODD_NAME]


def test_a_host_that_is_silent_is_found(
    journald: PrivateJournald, collector: Collector, tmp_path: Path
) -> None:
    deliver_one(journald, collector, tmp_path)
    assert silent_in(collector.stored) == ""
    (file,) = collector.stored.iterdir()
    hours_ago = time.time() - 3 * 3600
    os.utime(file, (hours_ago, hours_ago))
    assert silent_in(collector.stored) == f"{file}\n"
    deliver_one(journald, collector, tmp_path)
    assert silent_in(collector.stored) == ""


def silent_in(directory: Path) -> str:
    """What the manual's command finds, in this directory."""
    page = (ROOT / "packaging/man/procwatchd-fleet.7").read_text()
    command = re.search(r"^find /var/log/journal/remote (?:.*\\e\n)*.*$", page, re.MULTILINE)
    assert command is not None
    script = command[0].replace("/var/log/journal/remote", str(directory)).replace("\\e\n", "")
    return subprocess.run(["sh", "-c", script], check=True, capture_output=True, text=True).stdout


def deliver_one(journald: PrivateJournald, collector: Collector, state: Path) -> None:
    """Write an entry, and have it carried."""
    writer = JournaldWriter(journald.socket_path)
    writer.write(Entry({**OWN}, 1, 1))
    assert writer.wait(PATIENCE_SECONDS)
    writer.close()
    journald.sync()
    with Upload(state, collector.url, journald.logs) as host:
        host.wait_until_acknowledged()


@pytest.mark.parametrize("end", ["upload", "remote"])
def test_systemd_understands_the_drop_in_of_its_service(end: str, tmp_path: Path) -> None:
    unit = f"systemd-journal-{end}.service"
    shutil.copy(f"/lib/systemd/system/{unit}", tmp_path)
    (tmp_path / f"{unit}.d").mkdir()
    drop_in = tmp_path / f"{unit}.d/fleet.conf"
    shutil.copy(FLEET / f"journal-{end}.service.conf", drop_in)
    assert verified(tmp_path / unit) == ""
    drop_in.write_text(f"{drop_in.read_text()}NoSuchKey=1\n")
    assert "NoSuchKey" in verified(tmp_path / unit)


def verified(unit: Path) -> str:
    """What systemd has to say of a unit with its drop-ins: its exit status is 0 with unknown keys, too."""
    command = ["systemd-analyze", "verify", "--man=no", str(unit)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stderr


def test_rsyslog_takes_all_fields_and_of_no_other_program(
    daemon: RunningDaemon, journald: PrivateJournald, odd: bytes, tmp_path: Path
) -> None:
    # As from any other program: with our fields, but not from the unit.
    writer = JournaldWriter(journald.socket_path)
    writer.write(Entry({**OWN, "MESSAGE": "forged"}, 1, 1))
    writer.close()
    start_some(odd, daemon)
    daemon.stop()
    journald.sync()
    logs = tmp_path / "log"
    (logs / "journal").mkdir(parents=True)
    output = logs / "procwatchd.json"
    config = tmp_path / "rsyslog.conf"
    config.write_text(
        f'global(workDirectory="{tmp_path}")\ninclude(file="{FLEET}/rsyslog.conf")\n',
    )
    # It and imjournal know one place each.
    mounts = 'mount --bind "$0" /var/log && mount --bind "$1" /var/log/journal && shift && exec "$@"'
    with Program(
        tmp_path / "rsyslog.log",
        *["unshare", "-m", "sh", "-c", mounts, logs, journald.logs],
        *[program("rsyslogd"), "-n", "-i", tmp_path / "rsyslog.pid", "-f", config],
        *[f"-M{path}" for path in UNPACKED.glob("usr/lib/*/rsyslog")],
        environment=libraries(),
    ) as rsyslog:
        wait_for(lambda: output.exists() and b'"stop: ' in output.read_bytes(), lambda: rsyslog.errors)
    # As it sends them on: bytes that are no UTF-8, where there are any.
    carried = [json.loads(line.decode(errors="replace")) for line in output.read_bytes().splitlines()]
    sent = [entry for entry in entries_in(journald.logs) if "_SYSTEMD_UNIT" in entry]
    assert [entry["MESSAGE"] for entry in carried] == [entry["MESSAGE"] for entry in sent]
    for entry, original in zip(carried, sent, strict=True):
        assert {*entry} >= {name for name in original if name.startswith("PROCWATCH_")}


def test_keys_are_their_owners_alone(tmp_path: Path) -> None:
    make_certificates(tmp_path / "made", "a.example")
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "made").iterdir()}
    assert modes == {"ca.key": 0o600, "ca.pem": 0o644, "a.example.key": 0o600, "a.example.pem": 0o644}


def test_an_authority_that_was_begun_is_completed_and_a_whole_one_stays(tmp_path: Path) -> None:
    make_certificates(tmp_path, "a.example")
    (tmp_path / "ca.pem").unlink()
    key = (tmp_path / "ca.key").read_bytes()
    make_certificates(tmp_path, "a.example")
    authority = (tmp_path / "ca.pem").read_bytes()
    make_certificates(tmp_path, "b.example")
    assert (tmp_path / "ca.key").read_bytes() == key
    assert (tmp_path / "ca.pem").read_bytes() == authority
    names = [tmp_path / f"{name}.example.pem" for name in "ab"]
    subprocess.run(["openssl", "verify", "-CAfile", tmp_path / "ca.pem", *names], check=True)


def test_the_node_exporter_serves_all_metrics_through_the_link(daemon: RunningDaemon, tmp_path: Path) -> None:
    daemon.statistics()
    metrics = (daemon.directory / "run/metrics.prom").read_text()
    textfiles = tmp_path / "textfiles"
    textfiles.mkdir()
    (textfiles / "procwatchd.prom").symlink_to(daemon.directory / "run/metrics.prom")
    port = free_port()
    options = ["--collector.disable-defaults", "--collector.textfile"]
    with Program(
        tmp_path / "exporter.log",
        program("prometheus-node-exporter"),
        *options,
        f"--collector.textfile.directory={textfiles}",
        f"--web.listen-address=127.0.0.1:{port}",
    ) as exporter:
        wait_for(lambda: is_open(port), lambda: exporter.errors)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            served = answer.read().decode()
    assert names_in(served) == names_in(metrics)
    assert "node_textfile_scrape_error 0\n" in served
    assert re.search(r'^node_textfile_mtime_seconds\{file=".*/procwatchd\.prom"\} 1', served, re.MULTILINE)


def test_alerts_and_panels_ask_for_metrics_there_are(daemon: RunningDaemon) -> None:
    daemon.statistics()
    served = names_in((daemon.directory / "run/metrics.prom").read_text())
    for file in ("prometheus.rules.yml", "grafana.json"):
        asked = set(re.findall(r"\bprocwatchd_\w+", (FLEET / file).read_text()))
        assert len(asked) >= 10
        assert asked <= served


def test_each_alert_comes_where_it_should() -> None:
    subprocess.run([program("promtool"), "check", "rules", FLEET / "prometheus.rules.yml"], check=True)
    subprocess.run([program("promtool"), "test", "rules", FLEET / "prometheus.rules.test.yml"], check=True)


def test_prometheus_understands_the_panels(tmp_path: Path) -> None:
    dashboard = json.loads((FLEET / "grafana.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    # As Grafana does before it asks.
    for variable in ("$__rate_interval", "$__range"):
        queries = [query.replace(variable, "5m") for query in queries]
    rules = [{"record": f"panel:{number}", "expr": query} for number, query in enumerate(queries)]
    file = tmp_path / "panels.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    subprocess.run([program("promtool"), "check", "rules", file], check=True)


def make_certificates(directory: Path, *names: str) -> None:
    """An authority of its own in this directory, and what it vouches for."""
    subprocess.run([FLEET / "certificates", directory, *names], check=True, capture_output=True)


def names_in(metrics: str) -> set[str]:
    """The names of procwatchd's metrics in this text."""
    return set(re.findall(r"^(procwatchd_\w+) ", metrics, re.MULTILINE))
