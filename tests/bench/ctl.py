# SPDX-License-Identifier: MIT
"""How long procwatchctl takes to read many entries, and how much memory: beside journalctl, over the same journal.

The entries are of shells that each start some commands, like those of a busy build or of scripts, an exec and an exit
each: all of them are the daemon's by their trusted fields, as systemd-journal-remote stores what machines send.

Facts:
- A journal file is mapped, and what is mapped counts as resident, whoever reads it: memory of a program's own is
  RssAnon [proc_pid_status(5)].
- systemd-journal-remote reads the export format: FIELD=value lines, an empty line after each entry
  [systemd.io/JOURNAL_EXPORT_FORMATS].
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from procwatchd.journal.kinds import MESSAGE_IDS
from tests.bench.load import BenchError
from tests.bench.measured import ROOT
from tests.bench.table import Row, Table

ROUNDS = 3
TARGET_RATIO = 1.5
TARGET_GROWTH = 1.1  # of memory, with four times the entries

JOURNALCTL = "journalctl -o json"
_REMOTE = "/lib/systemd/systemd-journal-remote"
_LOOK_SECONDS = 0.02
_SHELL_COMMANDS = 24  # that a shell starts, one after the other
_STEP_USEC = 1_000  # between two entries
_TICK_USEC = 10_000
_BOOT_ID, _MACHINE_ID = "b" * 32, "a" * 32

# Executable, command line, exit code, CPU time, most memory.
_PROGRAMS = (
    ("/usr/bin/cat", "cat /var/lib/worker/spool/2026/11/21/batch", 0, 608, 1_592_354),
    ("/usr/bin/grep", "grep -c ^processor /proc/cpuinfo", 1, 1_200, 2_617_344),
    ("/usr/bin/x86_64-linux-gnu-gcc-12", "gcc -O2 -g -c -o outbound.o outbound.c", 0, 1_960, 2_700_000),
    ("/usr/lib/gcc/x86_64-linux-gnu/12/cc1", "/usr/lib/gcc/x86_64-linux-gnu/12/cc1 -quiet -O2 -", 0, 9_690, 23_000_000),
    ("/usr/bin/x86_64-linux-gnu-as", "as --64 -o outbound.o /tmp/ccZ0a1b2.s", 0, 1_570, 4_300_000),
    ("/usr/bin/python3.11", "python3 -m http.client --config=/etc/worker/conf.d/outbound.yaml", 2, 43_800, 38_100_000),
    ("/usr/bin/date", "date +%s", 0, 98, 1_767_793),
    ("/usr/bin/sort", "sort -u --parallel=2", 0, 1_100, 2_400_000),
)  # fmt: skip
_UNITS = ("build.service", "cron.service", "worker@1.service", "worker@2.service")


@dataclass(frozen=True, slots=True)
class Reading:
    """One program, once: its CPU time, the time it took, and the most memory of its own."""

    cpu_seconds: float
    seconds: float
    own_kib: int


@dataclass(frozen=True, slots=True)
class Readings:
    """All rounds, by program: over all entries, and over a quarter of them."""

    entries: int
    rounds: dict[str, list[Reading]]
    quarter: dict[str, list[Reading]]

    def cpu_seconds(self, name: str) -> float:
        """The CPU time of the round in the middle."""
        return median(one.cpu_seconds for one in self.rounds[name])

    def ratio(self, name: str) -> float:
        """The median of what it takes by what journalctl takes in the same round."""
        pairs = zip(self.rounds[name], self.rounds[JOURNALCTL], strict=True)
        return median(one.cpu_seconds / other.cpu_seconds for one, other in pairs)

    def growth(self, name: str) -> float:
        """The most memory with all entries, by that with a quarter of them."""
        return own_kib(self.rounds[name]) / own_kib(self.quarter[name])


def own_kib(rounds: list[Reading]) -> int:
    """The most of all rounds."""
    return max(one.own_kib for one in rounds)


def measure(directory: Path, entries: int) -> Readings:
    """Measure all programs in turns, over journals that are made in this directory."""
    since = int(time.time()) - entries * _STEP_USEC // 1_000_000 - 60
    whole = _make_journal(directory / "whole", entries, since)
    quarter = _make_journal(directory / "quarter", entries // 4, since)
    found = Readings(entries, {name: [] for name in _commands(whole, since)}, {})
    found.quarter.update({name: [read(command)] for name, command in _commands(quarter, since).items()})
    for n in range(ROUNDS):
        for name, command in list(_commands(whole, since).items())[:: -1 if n % 2 else 1]:
            found.rounds[name].append(read(command))
    return found


def _commands(journal: Path, since: int) -> dict[str, list[str]]:
    ctl = [sys.executable, "-m", "procwatchd.ctl.main"]
    options = ["-D", str(journal), "--since", f"@{since}", "--no-pager"]
    return {
        JOURNALCTL: ["journalctl", "-D", str(journal), "-o", "json"],
        "top": [*ctl, "top", *options],
        "tree --since": [*ctl, "tree", *options],
    }


def read(command: list[str]) -> Reading:
    """Run it with its output to nowhere, and look at its memory while it runs."""
    started = time.monotonic()
    most_kib = 0
    with tempfile.TemporaryFile() as problems:
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=problems
        )
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            most_kib = max(most_kib, _own_kib(process.pid))
            time.sleep(_LOOK_SECONDS)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            problems.seek(0)
            why = problems.read().decode(errors="replace").strip()
            raise BenchError(f"{' '.join(command)} ended with {process.returncode}: {why}")
    return Reading(usage.ru_utime + usage.ru_stime, time.monotonic() - started, most_kib)


def _own_kib(pid: int) -> int:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1])
    return 0


def _make_journal(directory: Path, entries: int, since: int) -> Path:
    """A directory with a journal of so many entries."""
    if not Path(_REMOTE).exists():
        raise BenchError(f"there is no {_REMOTE}: apt-get install systemd-journal-remote")
    directory.mkdir()
    command = [_REMOTE, f"--output={directory}/bench.journal", "-"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as remote:
        assert remote.stdin is not None
        assert remote.stderr is not None
        with contextlib.suppress(BrokenPipeError), remote.stdin as pipe:
            for n, entry in enumerate(made_entries(entries)):
                pipe.write(_exported(entry, n, since * 1_000_000))
        problem = remote.stderr.read().decode(errors="replace").strip()
    if remote.returncode:
        raise BenchError(f"systemd-journal-remote ended with {remote.returncode}: {problem}")
    return directory


def _exported(entry: dict[str, str], n: int, since_usec: int) -> bytes:
    """An entry in the export format, as a machine's journal gives it away."""
    when, monotonic = since_usec + n * _STEP_USEC, n * _STEP_USEC + 1
    cursor = f"s={'9' * 32};i={n + 1:x};b={_BOOT_ID};m={monotonic:x};t={when:x};x={n:x}"
    fields = {
        "__CURSOR": cursor,
        "__REALTIME_TIMESTAMP": when,
        "__MONOTONIC_TIMESTAMP": monotonic,
        "_BOOT_ID": _BOOT_ID,
        "_MACHINE_ID": _MACHINE_ID,
        "_HOSTNAME": "bench",
        "_TRANSPORT": "journal",
        "_PID": 812,
        "_UID": 990,
        "_GID": 990,
        "_COMM": "procwatchd",
        "_EXE": "/usr/bin/python3.13",
        "_CMDLINE": "/usr/bin/python3 /usr/bin/procwatchd",
        "_CAP_EFFECTIVE": 0,
        "_SYSTEMD_CGROUP": "/system.slice/procwatchd.service",
        "_SYSTEMD_UNIT": "procwatchd.service",
        "_SYSTEMD_SLICE": "system.slice",
        "_SYSTEMD_INVOCATION_ID": "c" * 32,
        "_SOURCE_REALTIME_TIMESTAMP": when - 30,
        **entry,
    }
    return "".join(f"{name}={value}\n" for name, value in fields.items()).encode() + b"\n"


def made_entries(count: int) -> Iterator[dict[str, str]]:
    """So many entries of the daemon's, in their order: shells, and what each of them starts."""
    n, shells = 0, 0
    while True:
        unit = _UNITS[shells % len(_UNITS)]
        shell = _process(n, 900, 1, "/usr/bin/dash", f"sh -c ./run {shells}", unit)
        made = [_entry("exec", n, shell)]
        for i in range(_SHELL_COMMANDS):
            exe, command, code, cpu_usec, peak = _PROGRAMS[i % len(_PROGRAMS)]
            at = n + len(made)
            process = _process(at, int(shell["PID"]), n, exe, command, unit)
            made.append(_entry("exec", at, process))
            made.append(_ended(at + 1, process, code, cpu_usec, peak))
        made.append(_ended(n + len(made), shell, 0, 5_000, 1_900_000))
        if n + len(made) >= count:
            yield from made[: count - n]
            return
        yield from made
        n, shells = n + len(made), shells + 1


def _process(n: int, ppid: int, parent: int, exe: str, command: str, unit: str) -> dict[str, str]:
    """What entries say of a process whose first is the `n`th; its parent's is `parent`."""
    pid = 1_000 + n % 4_000_000
    comm = os.path.basename(exe)[:15]
    return {
        "PID": str(pid),
        "PPID": str(ppid),
        "PROCESS_ID": f"{pid}-{_ticks(n)}",
        "COMM": comm,
        "EXE": exe,
        "CMDLINE": command,
        "CWD": "/var/lib/worker",
        "USER": "worker",
        "UID": "997",
        "CGROUP": f"/system.slice/{unit}",
        "UNIT": unit,
        "SLICE": "system.slice",
        "PARENT_PROCESS_ID": f"{ppid}-{_ticks(parent)}",
        "PARENT_COMM": "sh",
        "PARENT_EXE": "/usr/bin/dash",
        "PARENT_CMDLINE": "sh -c ./run",
        "ANCESTORS": f"sh[{ppid}] worker[900] systemd[1]" if ppid != 900 else "worker[900] systemd[1]",
    }


def _ticks(n: int) -> int:
    return n * _STEP_USEC // _TICK_USEC


def _entry(event: str, n: int, process: dict[str, str], **more: str) -> dict[str, str]:
    fields = {
        "EVENT": event,
        "MONOTONIC_USEC": str(n * _STEP_USEC + 1),
        "IDENTITY": "same",
        "SOURCE": "recorder" if event == "exec" else "table",
        **more,
        **process,
    }
    return {
        "MESSAGE": f"{event} {process['COMM']}[{process['PID']}] worker: {process['CMDLINE']} (sh[{process['PPID']}])",
        "MESSAGE_ID": MESSAGE_IDS[event],
        "PRIORITY": "6",
        "SYSLOG_IDENTIFIER": "procwatchd",
        **{f"PROCWATCH_{name}": value for name, value in fields.items()},
    }


def _ended(n: int, process: dict[str, str], code: int, cpu_usec: int, peak: int) -> dict[str, str]:
    return _entry(
        "exit",
        n,
        process,
        EXIT_CODE=str(code),
        EXIT_SOURCE="taskstats",
        DURATION_USEC=str(cpu_usec * 2),
        CPU_USEC=str(cpu_usec),
        MEMORY_PEAK=str(peak),
    )


def table(readings: Readings) -> Table:
    """CPU time, by journalctl's, and memory."""
    names = list(readings.rounds)
    ours = names[1:]
    ratios = {name: readings.ratio(name) for name in ours}
    growths = {name: readings.growth(name) for name in ours}
    rows = [
        Row(
            "CPU s", tuple(f"{readings.cpu_seconds(name):.2f}" for name in names), details=_details(readings)
        ),
        Row(
            "  by journalctl's",
            ("", *(f"{ratio:.2f}" for ratio in ratios.values())),
            f"≤ {TARGET_RATIO}",
            max(ratios.values()) <= TARGET_RATIO,
        ),
        Row(
            "memory of its own, MiB",
            tuple(f"{own_kib(rounds) / 1024:.1f}" for rounds in readings.rounds.values()),
        ),
        Row(
            "  by that with a quarter of them",
            ("", *(f"{growth:.2f}" for growth in growths.values())),
            f"≤ {TARGET_GROWTH}",
            max(growths.values()) <= TARGET_GROWTH,
        ),
    ]
    return Table(f"reading {readings.entries:,} entries", tuple(names), rows)


def _details(readings: Readings) -> tuple[str, ...]:
    return tuple(
        f"{name}, each round: {', '.join(f'{one.cpu_seconds:.2f} ({one.seconds:.2f} s)' for one in rounds)}"
        for name, rounds in readings.rounds.items()
    )
