# SPDX-License-Identifier: MIT
"""What it costs to log short processes to journald: the exec and the exit of each.

forkstat cannot write to journald: systemd-cat does it, and belongs to the cost. The rounds alternate, so that what else
goes on in the machine hits all; a process of someone else's costs them the same, and is counted as `other_forks`.
What journald itself takes stands beside it: an entry of many fields is more work than a line.
"""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from statistics import median

from tests.bench.load import PROGRAM, Load, forks_of_the_machine
from tests.bench.measured import Measured, cpu_ns, forkstat_to_journal, procwatchd
from tests.bench.table import Row, Table
from tests.integration.journald import PrivateJournald

ROUNDS = 3
TARGET_RATIO = 1.0

EVENTS = ("exec", "exit")

Start = Callable[[PrivateJournald], AbstractContextManager[Measured]]
PROGRAMS: dict[str, Start] = {
    "procwatchd": lambda journald: procwatchd(journald=journald),
    "forkstat": lambda journald: forkstat_to_journal(journald, "-x", "-e", "exec,exit"),
    "forkstat -r": lambda journald: forkstat_to_journal(journald, "-r", "-x", "-e", "exec,exit"),
}


@dataclass(frozen=True, slots=True)
class Round:
    """One program, measured once: CPU times by the processes of the load; `missing` events are not stored."""

    usec_per_process: float
    journald_usec_per_process: float
    missing: int
    other_forks: int


@dataclass(frozen=True, slots=True)
class Cost:
    """All rounds, by program."""

    processes: int
    rounds: dict[str, list[Round]]

    def usec(self, name: str) -> float:
        """The program's CPU time of the round in the middle."""
        return median(one.usec_per_process for one in self.rounds[name])

    def journald_usec(self, name: str) -> float:
        """The same of journald."""
        return median(one.journald_usec_per_process for one in self.rounds[name])


def measure(load: Load, processes: int) -> Cost:
    """Measure all programs, alternately."""
    cost = Cost(processes, {name: [] for name in PROGRAMS})
    for n in range(ROUNDS):
        # Who comes later has a warmer machine: each in turn.
        for name in list(PROGRAMS)[:: -1 if n % 2 else 1]:
            cost.rounds[name].append(measure_round(PROGRAMS[name], load, processes))
    return cost


def measure_round(
    start: Start,
    load: Load,
    processes: int,
    *,
    program: tuple[str, ...] = PROGRAM,
    events: tuple[str, ...] = EVENTS,
) -> Round:
    """Run so many processes of `program`, of which these events are to be stored."""
    with PrivateJournald() as journald, start(journald) as running:
        others_before = forks_of_the_machine()
        before_ns, journald_before_ns = running.cpu_ns(), cpu_ns(journald.pid)
        pids = [one.pid for one in load.spawn(processes, program)]
        running.wait_until_quiet()
        used_ns = running.cpu_ns() - before_ns
        # The spawning program itself is one fork.
        other_forks = forks_of_the_machine() - others_before - processes - 1
        journald_ns = cpu_ns(journald.pid) - journald_before_ns
        running.stop()
        journald.sync()
        find = _stored_by_daemon if running.helper is None else _stored_by_forkstat
        missing = len(events) * processes - _of_load(pids, find(journald), events)
    return Round(used_ns / 1000 / processes, journald_ns / 1000 / processes, missing, other_forks)


def _stored_by_daemon(journald: PrivateJournald) -> Iterable[tuple[str, int]]:
    fields = "PROCWATCH_EVENT,PROCWATCH_PID"
    for line in _journalctl(journald, "json", f"--output-fields={fields}"):
        entry = json.loads(line)
        yield entry.get("PROCWATCH_EVENT", ""), int(entry.get("PROCWATCH_PID", 0))


def _stored_by_forkstat(journald: PrivateJournald) -> Iterable[tuple[str, int]]:
    """Its lines are `TIME EVENT PID …`."""
    for line in _journalctl(journald, "cat"):
        words = line.split(None, 3)
        if len(words) >= 3 and words[2].isdigit():
            yield words[1].decode(errors="replace"), int(words[2])


def _journalctl(journald: PrivateJournald, output: str, *options: str) -> list[bytes]:
    command = ["journalctl", "--quiet", "-D", str(journald.logs), "--output", output, *options]
    return subprocess.run(command, check=True, capture_output=True).stdout.splitlines()


def _of_load(pids: list[int], told: Iterable[tuple[str, int]], events: tuple[str, ...] = EVENTS) -> int:
    """How many of these events of the load are told.

    No PID counts more often than the load had it: where PIDs are few and others busy, some have it next.
    """
    wanted = Counter((event, pid) for pid in pids for event in events)
    return (wanted & Counter(told)).total()


def table(cost: Cost) -> Table:
    """CPU time by process, and what it is of forkstat's."""
    names = list(cost.rounds)
    own, *peers = (cost.usec(name) for name in names)
    # The peer that takes less is the one to be held against.
    ratio = own / min(peers)
    rows = [
        Row("CPU µs a process", tuple(f"{cost.usec(name):.1f}" for name in names), details=_details(cost)),
        Row(
            "  procwatchd's by this",
            ("", *(f"{own / peer:.2f}" for peer in peers)),
            f"≤ {TARGET_RATIO}",
            ratio <= TARGET_RATIO,
        ),
        Row("  journald's µs", tuple(f"{cost.journald_usec(name):.1f}" for name in names)),
        _worst(cost, "  not stored, worst round", lambda one: one.missing),
        _worst(cost, "  forks by others, worst round", lambda one: one.other_forks),
    ]
    title = f"{cost.processes:,} processes, exec and exit to journald"
    return Table(title, ("procwatchd", *(f"{name} | systemd-cat" for name in names[1:])), rows)


def _worst(cost: Cost, work: str, figure: Callable[[Round], int]) -> Row:
    return Row(work, tuple(f"{max(map(figure, rounds)):,}" for rounds in cost.rounds.values()))


def _details(cost: Cost) -> tuple[str, ...]:
    return tuple(
        f"{name}, each round: {', '.join(f'{one.usec_per_process:.1f}' for one in rounds)}"
        for name, rounds in cost.rounds.items()
    )
