# SPDX-License-Identifier: MIT
"""What goes wrong around the service costs what is counted, and nothing else: it answers, and later entries come.

Facts of journald (systemd 257), which tells a sender nothing of them:
- Where the journal's disk is full it goes on in /run/log/journal, and moves that to disk once there is room. Where
  that is full, too, entries are lost in silence.
- What is beyond the rate limit of a unit it drops, and says how much with the next entry after the interval.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.e2e.guest.report import check, note, wait_until
from tests.e2e.guest.service import (
    CAPABILITIES,
    CONFIGURATION,
    UNIT,
    Entries,
    Entry,
    configure,
    field,
    install,
    main_pid,
    of,
    run,
    shown,
    systemctl,
)
from tests.e2e.guest.upkeep import CONSIDERED, TERMS, ledger_at_stop

RENAMES = """
capture: {events: [exec, exit, comm]}
log: {limit: off, fields: all}
"""
BY_PROC = "capture: {arguments: proc}\nlog: {limit: off}\n"
OVER = Path("/run/systemd/system/procwatchd.service.d/e2e.conf")
JOURNAL, VOLATILE = Path("/var/log/journal"), Path("/run/log")
PACKAGE = "./procwatchd.deb"
# Of the message in which journald says so [systemd, sd-messages.h].
SUPPRESSED = "a596d6fe7bfa4994828e72309e95d61e"
LOCKDOWN = Path("/sys/kernel/security/lockdown")

# More than journald lets through by default in its 30 s: 10 000 and, where there is room on disk, some times that.
BURST, BURST_NAME = 40_000, "e2e-burst"
SOME = 2000
LOW_BURST, LOW_INTERVAL_SECONDS = 100, 5
HOUR = 3600
NOBODY = 65534
BOMB_SECONDS = 5
_PR_SET_NAME = 15


def rename(count: int, tag: str) -> None:
    """Take so many names, each of which is an event: what makes entries at little cost."""
    prctl = ctypes.CDLL(None).prctl
    before = Path("/proc/self/comm").read_bytes().rstrip(b"\n")
    for number in range(count):
        prctl(_PR_SET_NAME, b"%s%d" % (tag.encode(), number), 0, 0, 0)
    prctl(_PR_SET_NAME, before, 0, 0, 0)


def numbers_of(entries: list[Entry], tag: str) -> list[int]:
    """The numbers in the names with this tag."""
    names = [str(field(entry, "COMM")) for entry in entries if field(entry, "EVENT") == "comm"]
    return [int(name.removeprefix(tag)) for name in names if name.startswith(tag)]


def check_answers(name: str, entries: Entries) -> Entry:
    """It says how it is, and tells of what is run now."""
    statistics = entries.settle()
    terms = {term: int(field(statistics, term)) for term in (*TERMS, *CONSIDERED, "RECEIVED")}
    adds_up = terms["RECEIVED"] == sum(terms[term] for term in TERMS)
    adds_up &= terms["CONSIDERED"] == sum(terms[term] for term in CONSIDERED)
    check(f"{name}: the account adds up", adds_up, terms)
    ended = subprocess.run(["/bin/sh", "-c", "exit 7"], check=False)
    check(f"{name}: later entries come", entries.wait(of("exit", exit_code=7)), ended)
    return statistics


def start_anew() -> subprocess.CompletedProcess[str]:
    """With nothing of the one before: over a restart the service manager keeps what that one had open."""
    systemctl("stop")
    return systemctl("start")


@contextlib.contextmanager
def drop_in(text: str) -> Iterator[Entries]:
    """The service started anew with more in its unit, and afterwards as it was."""
    OVER.parent.mkdir(parents=True, exist_ok=True)
    OVER.write_text(f"[Service]\n{text}")
    run("systemctl", "daemon-reload")
    entries = Entries()
    done = start_anew()
    check(f"it starts with {text.splitlines()[0]}", done.returncode == 0, done.stdout)
    try:
        yield entries
    finally:
        OVER.unlink()
        run("systemctl", "daemon-reload")
        start_anew()


def start() -> None:
    note(os.uname().release)
    done = install(PACKAGE)
    check("the package can be installed", done.returncode == 0, done.stdout)
    configure(RENAMES)
    done = systemctl("start")
    check("it starts", done.returncode == 0, done.stdout)


def a_burst_passes_the_rate_limit() -> None:
    """As the unit is shipped; sent from within it, as the daemon has more to do for an entry than to send it."""
    began = time.monotonic()
    procs = Path("/sys/fs/cgroup", shown("ControlGroup").lstrip("/"), "cgroup.procs")
    run(sys.executable, "-B", "-m", "tests.e2e.guest.faults", str(procs))
    run("journalctl", "--sync")
    seconds = time.monotonic() - began
    found = run(
        "journalctl", "-q", "-b", "-o", "cat", "-u", UNIT, f"SYSLOG_IDENTIFIER={BURST_NAME}"
    ).stdout.split()
    note(f"burst: {len(found)} entries in {seconds:.1f} s")
    check(
        "burst: all entries are stored, in order",
        found == [*map(str, range(BURST))],
        f"{len(found)} of {BURST}",
    )


def send_burst(procs: str) -> None:
    """From within this control group."""
    Path(procs).write_text("0")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.connect("/run/systemd/journal/socket")
        for number in range(BURST):
            journal.send(f"MESSAGE={number}\nPRIORITY=6\nSYSLOG_IDENTIFIER={BURST_NAME}\n".encode())


def a_low_rate_limit() -> None:
    """What journald drops, it says itself; the ledger has it as handed over."""
    text = f"LogRateLimitBurst={LOW_BURST}\nLogRateLimitIntervalSec={LOW_INTERVAL_SECONDS}s\n"
    with drop_in(text) as entries:
        rename(SOME, "limited")
        time.sleep(LOW_INTERVAL_SECONDS)
        # The next one after the interval brings it to light; another kind has a limit of its own.
        rename(1, "later")
        wait_until(suppressed)
        found, dropped = numbers_of(entries.having(of("comm")), "limited"), suppressed()
        note(f"low limit: {len(found)} of {SOME} stored, {dropped} suppressed by journald's word")
        check("low limit: journald drops", len(found) < SOME, len(found))
        check("low limit: what is missing journald says", len(found) + dropped >= SOME, (len(found), dropped))
        time.sleep(LOW_INTERVAL_SECONDS)
        statistics = check_answers("low limit", entries)
        check("low limit: handed over is all of it", int(field(statistics, "LOGGED")) >= SOME, statistics)
        losses = entries.having(of("loss"))
        check("low limit: the daemon knows of no loss", not losses, losses)


def suppressed() -> int:
    """How many of our entries journald says to have dropped."""
    lines = run("journalctl", "-q", "-b", "-o", "json", f"MESSAGE_ID={SUPPRESSED}").stdout.splitlines()
    said = [entry for entry in map(json.loads, lines) if UNIT in entry["MESSAGE"]]
    return sum(int(entry["N_DROPPED"]) for entry in said)


@contextlib.contextmanager
def journal_on(disks: dict[Path, str]) -> Iterator[None]:
    """Have journald with directories of these sizes of their own, and afterwards as it was."""
    for directory, size in disks.items():
        directory.mkdir(parents=True, exist_ok=True)
        run("mount", "-t", "tmpfs", "-o", f"size={size}", "e2e", directory)
    run("systemctl", "restart", "systemd-journald")
    run("journalctl", "--flush")
    try:
        yield
    finally:
        for directory in disks:
            run("umount", "--lazy", directory)
        run("systemctl", "restart", "systemd-journald")
        run("journalctl", "--flush")


def fill(directory: Path) -> Path:
    """Leave no room there; gives the file that has it all."""
    path = directory / "e2e-fill"
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    return path


def the_journals_disk_is_full() -> None:
    with journal_on({JOURNAL: "24M"}):
        entries = Entries()
        filled = fill(JOURNAL)
        rename(SOME, "full")
        check_answers("disk full", entries)
        filled.unlink()
        rename(1, "room")
        check(
            "disk full: it comes when there is room", entries.wait(of("comm", comm="room0")), entries.all[-3:]
        )
        found = numbers_of(entries.all, "full")
        check("disk full: journald kept all elsewhere", found == list(range(SOME)), f"{len(found)} of {SOME}")


def all_journals_disks_are_full() -> None:
    """What is lost then nobody tells; all else goes on."""
    with journal_on({JOURNAL: "24M", VOLATILE: "1M"}):
        entries = Entries()
        pid = main_pid()
        filled = [fill(directory) for directory in (JOURNAL, VOLATILE)]
        rename(SOME, "lost")
        time.sleep(5)
        for path in filled:
            path.unlink()
        statistics = check_answers("disks full", entries)
        found = numbers_of(entries.all, "lost")
        note(f"disks full: {len(found)} of {SOME} stored, LOGGED {field(statistics, 'LOGGED')}")
        check("disks full: it is the same daemon", main_pid() == pid, shown("NRestarts"))


def the_clock_is_set() -> None:
    """Back an hour, then forward two, then right again."""
    entries = Entries()
    pid = main_pid()
    real_offset = time.time() - time.monotonic()
    for number, hours in enumerate((-1, 1, 0)):
        began = time.monotonic()
        with subprocess.Popen(["/bin/sh", "-c", "read line; exit 5"], stdin=subprocess.PIPE) as process:
            time.sleep(0.5)
            time.clock_settime(time.CLOCK_REALTIME, real_offset + time.monotonic() + hours * HOUR)
            rename(1, f"clock{number}-")
            process.communicate(b"\n")
        usec = (time.monotonic() - began) * 1_000_000
        ended = entries.one(of("exit", pid=process.pid))
        duration = int(field(ended, "DURATION_USEC"))
        check(f"clock {hours:+}h: DURATION is right", 500_000 <= duration <= usec, (duration, usec))
        realtime = int(ended["__REALTIME_TIMESTAMP"]) / 1e6
        about = real_offset + time.monotonic() + hours * HOUR
        check(
            f"clock {hours:+}h: the entry has the new time",
            abs(realtime - about) < HOUR / 2,
            (realtime, about),
        )
    check_answers("clock", entries)
    times = [int(field(entry, "MONOTONIC_USEC")) for entry in entries.all if field(entry, "EVENT") == "comm"]
    check("clock: events are in order", times == sorted(times), times)
    check("clock: it is the same daemon", main_pid() == pid, shown("NRestarts"))
    unwanted = entries.having(lambda entry: field(entry, "EVENT") in ("loss", "blind", "resync"))
    check("clock: nothing was taken for a loss", not unwanted, unwanted)


def a_neighbour_runs_out_of_memory() -> None:
    entries = Entries()
    pid = main_pid()
    limits = ("-p", "MemoryMax=32M", "-p", "MemorySwapMax=0", "-p", "LogLevelMax=0")
    run(
        "systemd-run",
        "--wait",
        "-q",
        "-u",
        "greedy",
        *limits,
        sys.executable,
        "-c",
        "len(bytes(1) * (256 << 20))",
    )
    ended = entries.one(of("exit", unit="greedy.service", oom_killed=1))
    check("OOM: by SIGKILL", field(ended, "EXIT_SIGNAL") == "SIGKILL", ended)
    check("OOM: it is the same daemon", main_pid() == pid, shown("NRestarts"))
    check_answers("OOM", entries)


def its_own_memory_is_short() -> None:
    """So that there is none for files: beyond MemoryHigh the kernel takes back what it can, and slows a unit down."""
    entries = Entries()
    pid = main_pid()
    group = Path("/sys/fs/cgroup", shown("ControlGroup").lstrip("/"))
    high = resident_bytes(group)
    run("systemctl", "set-property", "--runtime", UNIT, f"MemoryHigh={high}")
    try:
        rename(SOME, "short")
        check_answers("memory short", entries)
    finally:
        run("systemctl", "set-property", "--runtime", UNIT, "MemoryHigh=infinity")
    found = numbers_of(entries.all, "short")
    events = dict(line.split() for line in (group / "memory.events").read_text().splitlines())
    note(f"memory short: {high >> 10} KiB, {events['high']} times beyond it")
    check("memory short: it was", int(events["high"]) > 0, events)
    check("memory short: all entries come", found == list(range(SOME)), f"{len(found)} of {SOME}")
    check("memory short: it is the same daemon", main_pid() == pid, shown("NRestarts"))


def resident_bytes(group: Path) -> int:
    """What of a control group's memory is no file's, and so cannot be had back where there is no swap."""
    stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    return int(stat["anon"]) + int(stat["kernel"]) + int(stat["shmem"])


def a_fork_bomb() -> None:
    """Of another user, within what systemd allows a unit."""
    entries = Entries()
    limits = ("-p", "TasksMax=100", "-p", f"RuntimeMaxSec={BOMB_SECONDS}", "-p", "KillMode=control-group")
    # With a file that it closes, so that it ends where nobody can end it.
    bomb = "f() { f | f & }; f; exec sleep 1000"
    run("systemd-run", "-q", "-u", "bomb", "--uid", str(NOBODY), *limits, "/bin/sh", "-c", bomb)
    check_answers("bomb, amid it", entries)
    check(
        "bomb: it ends",
        wait_until(lambda: run("systemctl", "is-active", "bomb").stdout.strip() != "active"),
        "",
    )
    check_answers("bomb", entries)
    exits = entries.having(
        lambda entry: field(entry, "UNIT") == "bomb.service" and field(entry, "EVENT") == "exit"
    )
    losses = [entry["MESSAGE"] for entry in entries.having(of("loss"))]
    note(f"bomb: {len(exits)} exits told, losses {losses}")
    check("bomb: its processes are told", len(exits) >= 100, len(exits))
    check("bomb: nothing was lost", not losses, losses)


def proc_is_hidden() -> None:
    """/proc mounted with hidepid=2: the unit's capabilities look through it, where /proc is what there is."""
    run("mount", "-o", "remount,hidepid=2", "/proc")
    configure(BY_PROC)
    systemctl("restart")
    entries = Entries()
    process = subprocess.Popen(["/bin/sh", "-c", "read line", "hidden"], stdin=subprocess.PIPE, user=NOBODY)
    told = entries.one(of("exec", pid=process.pid, uid=NOBODY))
    process.communicate(b"\n")
    run("mount", "-o", "remount,hidepid=0", "/proc")
    check("hidepid: CMDLINE", field(told, "CMDLINE") == "/bin/sh -c 'read line' hidden", told)
    check("hidepid: EXE", field(told, "EXE") == "/usr/bin/dash", told)
    check("hidepid: from /proc", field(told, "SOURCE") == "proc", told)
    configure(RENAMES)
    systemctl("restart")


def the_configuration_vanishes() -> None:
    entries = Entries()
    pid = main_pid()
    away = CONFIGURATION.rename(f"{CONFIGURATION}.away")
    done = systemctl("reload")
    check("configuration gone: it can be reloaded", done.returncode == 0, done.stdout)
    told = entries.one(of("reload"))["MESSAGE"]
    note(told)
    away.rename(CONFIGURATION)
    done = systemctl("reload")
    check("configuration back: it can be reloaded", done.returncode == 0, done.stdout)
    check(
        "configuration back: it is named",
        str(CONFIGURATION) in entries.wait(of("reload"), count=2)[-1]["MESSAGE"],
        told,
    )
    check("configuration back: it is the same daemon", main_pid() == pid, shown("NRestarts"))


def the_manager_starts_anew() -> None:
    """PID 1 becomes another program, as when systemd is upgraded."""
    entries = Entries()
    pid = main_pid()
    run("systemctl", "daemon-reexec")
    check("daemon-reexec: it can be reloaded", systemctl("reload").returncode == 0, "")
    entries.one(of("reload"))
    check_answers("daemon-reexec", entries)
    check("daemon-reexec: it is the same daemon", main_pid() == pid, shown("NRestarts"))


def the_kernel_refuses() -> None:
    """Without the capabilities for them neither the recorder nor the accounting can be had."""
    kept = " ".join(one for one in CAPABILITIES if one not in ("CAP_BPF", "CAP_NET_ADMIN"))
    text = "".join(f"{name}=\n{name}={kept}\n" for name in ("AmbientCapabilities", "CapabilityBoundingSet"))
    with drop_in(text) as entries:
        said = ("arguments by /proc alone", "ends only as far as the connector tells")
        check_sources("refused", entries, said, "connector")


def a_lockdown() -> None:
    """The last: it cannot be taken back."""
    LOCKDOWN.write_text("confidentiality")
    entries = Entries()
    start_anew()
    check_sources("lockdown", entries, ("arguments by /proc alone: the kernel is locked down",), "taskstats")


def check_sources(name: str, entries: Entries, said: tuple[str, ...], exit_source: str) -> None:
    """Arguments come from /proc, and ends from there; the start, and nothing else, says why."""
    process = subprocess.Popen(["/bin/sh", "-c", "read line; exit 4"], stdin=subprocess.PIPE)
    execed = entries.one(of("exec", pid=process.pid, exe="/usr/bin/dash"))
    process.communicate(b"\n")
    ended = entries.one(of("exit", pid=process.pid))
    check(f"{name}: SOURCE=proc", field(execed, "SOURCE") == "proc", execed)
    told = (field(ended, "EXIT_CODE"), field(ended, "EXIT_SOURCE"))
    check(f"{name}: EXIT_SOURCE={exit_source}", told == ("4", exit_source), ended)
    for part in said:
        kinds = [field(entry, "EVENT") for entry in entries.all if part in entry["MESSAGE"]]
        check(f"{name}: once it says: {part}", kinds == ["start"], kinds)
    check_answers(name, entries)


BOOTS = (
    (
        start,
        a_burst_passes_the_rate_limit,
        a_low_rate_limit,
        the_journals_disk_is_full,
        all_journals_disks_are_full,
        the_clock_is_set,
        a_neighbour_runs_out_of_memory,
        its_own_memory_is_short,
        a_fork_bomb,
        proc_is_hidden,
        the_configuration_vanishes,
        the_manager_starts_anew,
        the_kernel_refuses,
        a_lockdown,
        ledger_at_stop,
    ),
)

if __name__ == "__main__":
    send_burst(sys.argv[1])
