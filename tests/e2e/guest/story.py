# SPDX-License-Identifier: MIT
"""The life of the package on a machine: installed, used, changed, upgraded, hurt, booted with, and removed."""

from __future__ import annotations

import re
import time
from pathlib import Path

from tests.e2e.guest import fields, judged, kernel, looked, upkeep
from tests.e2e.guest.report import check, note, wait_until
from tests.e2e.guest.service import (
    CAPABILITIES,
    CONFIGURATION,
    DROP_IN,
    UNIT,
    Entries,
    configure,
    field,
    install,
    main_pid,
    of,
    run,
    shown,
    systemctl,
)

MAX_EXPOSURE = "17"  # in tenths
SECCOMP_FILTER = "2"
NEWER = "./newer.deb"
NEWER_LINE = "# newer\n"  # of its configuration
OWN_LINE = "# own\n"
METRICS = "/run/procwatchd/metrics.prom"

RULE = """
log: {limit: off}
rules:
  - {name: e2e-rule, match: {event: exec, cmdline|contains: e2e-reloaded}, priority: warning, tags: [reloaded]}
"""
BROKEN = "rules:\n  - {name: e2e-rule, match: {event: exec, no-such-key: x}}\n"


def installed_it_waits_to_be_enabled() -> None:
    done = install(kernel.PACKAGE)
    check("the package can be installed", done.returncode == 0, done.stdout)
    check(
        "it is not enabled",
        systemctl("is-enabled").stdout.strip() == "disabled",
        systemctl("is-enabled").stdout,
    )
    check("it does not run", systemctl("is-active").stdout.strip() == "inactive", systemctl("status").stdout)
    check("presets agree", "preset: disabled" in systemctl("status").stdout, systemctl("status").stdout)
    check("its user is there", run("getent", "passwd", "procwatchd").returncode == 0, "no such user")


def its_own_test_passes() -> None:
    """What autopkgtest would run; it leaves the service disabled and stopped."""
    done = run("sh", "./package-test")
    check("the package's own test passes", done.returncode == 0, done.stdout)


def the_unit_is_sound() -> None:
    verified = run("systemd-analyze", "verify", "--man=no", UNIT)
    check(
        "systemd-analyze has nothing to say",
        verified.returncode == 0 and not verified.stdout,
        verified.stdout,
    )
    security = run("systemd-analyze", "security", "--no-pager", f"--threshold={MAX_EXPOSURE}", UNIT)
    last = security.stdout.strip().splitlines()[-1]
    note(last)
    check("its exposure is small", security.returncode == 0, last)


def enabled_it_runs() -> None:
    done = systemctl("enable", "--now")
    check("it can be enabled and started", done.returncode == 0, done.stdout)
    check("it runs", systemctl("is-active").stdout.strip() == "active", systemctl("status").stdout)
    started = Entries(whole_boot=True).wait(of("start"))[-1]["MESSAGE"]
    note(started)
    check("its start says nothing of /proc alone", "by /proc alone" not in started, started)
    this_start = (f"UNIT={UNIT}", f"INVOCATION_ID={shown('InvocationID')}", "_PID=1")
    warnings = run("journalctl", "-q", "-b", *this_start, "-p", "warning", "-o", "cat").stdout
    check("the service manager has no warning of it", not warnings, warnings)


def commands_are_told() -> None:
    entries = Entries()
    run("/usr/bin/id")
    run("/bin/sh", "-c", "exit 7", "e2e-told")
    entries.one(
        lambda entry: field(entry, "CMDLINE") == "sh -c 'exit 7' e2e-told" or field(entry, "EXIT_CODE") == "7"
    )
    entries.settle()
    text = run("journalctl", "-q", "-b", "--no-pager", "-u", UNIT, "-o", "cat").stdout
    for wanted in (r"exec id\[\d+\] root: /usr/bin/id ", r"exit id\[\d+\] root: code 0 after ", r"e2e-told"):
        check(f"journalctl -u has: {wanted}", re.search(wanted, text), text[-1000:])
    told = entries.having(lambda entry: "e2e-told" in str(field(entry, "CMDLINE")))
    found = [(field(entry, "EVENT"), field(entry, "EXIT_CODE"), field(entry, "SOURCE")) for entry in told]
    check(
        "exec and exit have an entry each",
        [one[:2] for one in found] == [("exec", None), ("exit", "7")],
        found,
    )
    check("what was executed is the recorder's word", found[0][2] == "recorder", found)


def it_has_few_rights() -> None:
    pid = main_pid()
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    uid = run("id", "-u", "procwatchd").stdout.strip()
    check("it runs as its own user", set(status["Uid"].split()) == {uid}, status["Uid"])
    wanted = sum(1 << number for number in CAPABILITIES.values())
    for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb"):
        check(f"{name} is what the unit gives", int(status[name], 16) == wanted, status[name])
    check("it can gain none", status["NoNewPrivs"] == "1", status["NoNewPrivs"])
    check("its system calls are filtered", status["Seccomp"] == SECCOMP_FILTER, status["Seccomp"])
    mode = Path("/run/procwatchd").stat().st_mode & 0o777
    note(f"/run/procwatchd has mode {mode:o}: {run('ls', '-la', '/run/procwatchd').stdout}")


def anybody_may_read_the_metrics() -> None:
    Entries().settle()
    done = run("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "cat", METRICS)
    check("nobody can read metrics.prom", done.returncode == 0 and "procwatchd_" in done.stdout, done.stdout)


def a_rule_is_taken_at_reload() -> None:
    configure(RULE)
    entries, pid = Entries(), main_pid()
    done = systemctl("reload")
    check("it can be reloaded", done.returncode == 0, done.stdout)
    run("/bin/echo", "e2e-reloaded")
    told = entries.one(lambda entry: of("exec")(entry) and "e2e-reloaded" in str(field(entry, "CMDLINE")))
    found = (field(told, "RULE"), field(told, "TAGS"), told["PRIORITY"])
    check("the new rule decides", found == ("e2e-rule", "reloaded", "4"), found)
    check("it is the same process", main_pid() == pid, f"{pid}, now {main_pid()}")


def a_broken_rule_changes_nothing() -> None:
    configure(BROKEN)
    entries, pid = Entries(), main_pid()
    place = f"{DROP_IN}:2:"
    done = systemctl("reload")
    check("a reload with a broken rule fails", done.returncode != 0, done.stdout)
    found = wait_until(lambda: place in run("journalctl", "-q", "-b", "-u", UNIT, "-o", "cat").stdout)
    check(
        "the journal has file, line and column", found, run("journalctl", "-b", "-u", UNIT, "-n", "20").stdout
    )
    status = systemctl("status", "-n", "20", "--no-pager", "-l").stdout
    check("systemctl status shows it", re.search(re.escape(place) + r"\d+: ", status), status)
    check("the daemon goes on", main_pid() == pid and shown("ActiveState") == "active", shown("ActiveState"))
    run("/bin/echo", "e2e-reloaded", "again")
    told = entries.one(
        lambda entry: of("exec")(entry) and "e2e-reloaded again" in str(field(entry, "CMDLINE"))
    )
    check("the rules it had still decide", field(told, "RULE") == "e2e-rule", told["MESSAGE"])
    configure(RULE)
    check("mended, it can be reloaded", systemctl("reload").returncode == 0, systemctl("status").stdout)
    Entries().settle()
    check("systemctl status shows it no more", place not in shown("StatusText"), shown("StatusText"))


def upgraded_amid_a_load() -> None:
    pid = main_pid()
    with CONFIGURATION.open("a") as file:
        file.write(OWN_LINE)
    own = CONFIGURATION.read_text()
    # As apt has dpkg do it, without what apt ponders first.
    upkeep.upgrade_under_load(lambda: run("dpkg", "--force-confold", "--install", NEWER).returncode == 0)
    check("upgrade: it is another process", main_pid() not in (0, pid), main_pid())
    check(
        "upgrade: the administrator's configuration stays", CONFIGURATION.read_text() == own, "it is another"
    )
    shipped = CONFIGURATION.with_name(f"{CONFIGURATION.name}.dpkg-dist").read_text()
    check("upgrade: the newer one lies beside it", shipped.endswith(NEWER_LINE), shipped[-200:])
    check("upgrade: drop-ins stay", DROP_IN.read_text() == "log: {limit: off}\n", DROP_IN.read_text())


def stopped_and_started() -> None:
    """While it is stopped nobody listens, and the next start says since when."""
    pid = main_pid()
    check("it is stopped as asked", systemctl("stop").returncode == 0, systemctl("status").stdout)
    check("nothing of it is left", not Path(f"/proc/{pid}").exists(), pid)
    unseen = run("/bin/echo", "e2e-unseen")
    time.sleep(1)
    entries = Entries()
    check("it is started again", systemctl("start").returncode == 0, systemctl("status").stdout)
    start = entries.one(of("start"))
    since, until = field(start, "SINCE_USEC"), field(start, "UNTIL_USEC")
    blind = since and until and int(until) - int(since) > 1_000_000
    check(
        "it says since when nobody listened",
        blind and "nobody listened for" in start["MESSAGE"],
        start["MESSAGE"],
    )
    entries.settle()
    told = entries.having(lambda entry: "e2e-unseen" in str(field(entry, "CMDLINE")))
    check("of what was meanwhile it tells nothing", unseen.returncode == 0 and not told, told)


def hanging_it_is_restarted() -> None:
    check("the watchdog is on", shown("WatchdogUSec") == "30s", shown("WatchdogUSec"))
    hurry = Path("/run/systemd/system/procwatchd.service.d/hurry.conf")
    hurry.parent.mkdir(parents=True, exist_ok=True)
    hurry.write_text("[Service]\nWatchdogSec=5s\nTimeoutAbortSec=5s\n")
    run("systemctl", "daemon-reload")
    systemctl("restart")
    pid, restarts = main_pid(), int(shown("NRestarts"))
    systemctl("kill", "--kill-whom=main", "-s", "STOP")
    is_back = wait_until(lambda: main_pid() not in (0, pid) and shown("SubState") == "running", seconds=60)
    check("stopped by a signal, it is restarted by the watchdog", is_back, systemctl("status").stdout)
    check("that was one restart", int(shown("NRestarts")) == restarts + 1, shown("NRestarts"))
    entries = Entries()
    run("/bin/echo", "e2e-afterwards")
    check("it tells on", entries.one(lambda entry: "e2e-afterwards" in str(field(entry, "CMDLINE"))))


def booted_it_sees_the_boot() -> None:
    entries = Entries(whole_boot=True)
    check("after the boot it runs", shown("ActiveState") == "active", systemctl("status").stdout)
    start = entries.one(of("start"))
    entries.settle()
    execs = entries.having(of("exec"))
    units = sorted({str(field(entry, "UNIT")) for entry in execs})
    note(f"services whose start it saw: {units}")
    check("it sees a service of the boot start", "scenario.service" in units, units)
    since = int(field(start, "MONOTONIC_USEC"))
    earlier = [name for name, usec in _activations().items() if usec and usec < since]
    note(f"it began {since / 1e6:.1f} s after the kernel; services that were there before: {earlier}")
    check("of the boot nothing was lost", not entries.having(of("loss")), entries.having(of("loss")))


def _activations() -> dict[str, int]:
    """When the services of this boot became active, in microseconds since its start."""
    text = run("systemctl", "show", "-p", "Id", "-p", "ActiveEnterTimestampMonotonic", "*.service").stdout
    blocks = [
        dict(line.split("=", 1) for line in block.splitlines()) for block in text.split("\n\n") if block
    ]
    return {block["Id"]: int(block["ActiveEnterTimestampMonotonic"]) for block in blocks}


def removed_and_purged() -> None:
    pid = main_pid()
    done = run("apt-get", "-q", "-y", "-o", "Dpkg::Use-Pty=0", "remove", "procwatchd")
    check("the package can be removed", done.returncode == 0, done.stdout)
    check("removed it runs no more", pid and not Path(f"/proc/{pid}").exists(), pid)
    check("removed its configuration is there", CONFIGURATION.exists(), "it is not")
    done = run("apt-get", "-q", "-y", "-o", "Dpkg::Use-Pty=0", "purge", "procwatchd")
    check("the package can be purged", done.returncode == 0, done.stdout)
    DROP_IN.unlink()
    DROP_IN.parent.rmdir()
    left = run(
        "find", "/", "-xdev", "-name", "*procwatchd*", "-not", "-path", "/var/lib/apt/*"
    ).stdout.split()
    left += run("find", "/run", "-name", "*procwatchd*", "-not", "-path", "/run/e2e/*").stdout.split()
    check("purged it leaves nothing", not left, left)
    listed = run("dpkg-query", "-W", "-f", "${db:Status-Abbrev}", "procwatchd").stdout
    check("dpkg knows it no more", not listed.startswith(("i", "r")), listed)
    check("systemd knows it no more", shown("LoadState") == "not-found", shown("LoadState"))


BOOTS = (
    (
        installed_it_waits_to_be_enabled,
        its_own_test_passes,
        the_unit_is_sound,
        enabled_it_runs,
        commands_are_told,
        it_has_few_rights,
        anybody_may_read_the_metrics,
        *looked.STEPS,
        a_rule_is_taken_at_reload,
        a_broken_rule_changes_nothing,
        *judged.STEPS,
        *fields.STEPS,
        fields.with_a_drop_in_the_environment,
        upkeep.as_shipped_but_unlimited,
        upkeep.restart_under_load,
        upkeep.reload_under_load,
        upgraded_amid_a_load,
        upkeep.killed_under_load,
        stopped_and_started,
        hanging_it_is_restarted,
        upkeep.ledger_at_stop,
    ),
    (booted_it_sees_the_boot, removed_and_purged),
)
