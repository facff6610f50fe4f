# SPDX-License-Identifier: MIT
"""What it costs to log short processes, and whether what is logged has their arguments.

Both programs write the exec and the exit of each process to a file. Their rounds alternate, so that what else
goes on in the machine hits both; a process of someone else's costs them the same, and is counted as `other_forks`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.bench.load import MARK, Load, forks_of_the_machine
from tests.bench.measured import Measured, forkstat, procwatchd

ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Found:
    """What of the load is in the output: execs, exits, and how many of the execs have the arguments.

    No PID counts more often than the load had it: where PIDs are few and others busy, some have it next.
    """

    execs: int
    exits: int
    with_arguments: int


@dataclass(frozen=True, slots=True)
class Round:
    """One program, measured once: CPU time of the program, by the processes of the load."""

    usec_per_process: float
    processes: int
    other_forks: int
    found: Found

    @property
    def arguments_share(self) -> float:
        """The share of the load's processes whose exec was logged with its arguments."""
        return self.found.with_arguments / self.processes

    @property
    def missing(self) -> int:
        """How many of the load's execs and exits are not in the output."""
        return 2 * self.processes - self.found.execs - self.found.exits


@dataclass(frozen=True, slots=True)
class Cost:
    """All rounds, with these options of forkstat."""

    options: str
    daemon: list[Round]
    forkstat: list[Round]

    @property
    def ratio(self) -> float:
        """How many times forkstat's CPU time procwatchd takes: medians, one by the other."""
        return median_usec(self.daemon) / median_usec(self.forkstat)


def median_usec(rounds: list[Round]) -> float:
    """The CPU time of the round in the middle."""
    return median(one.usec_per_process for one in rounds)


def median_share(rounds: list[Round]) -> float:
    """The share of execs with arguments of the round in the middle."""
    return median(one.arguments_share for one in rounds)


def measure(load: Load, processes: int, options: str) -> Cost:
    """Measure both programs, forkstat with these options, alternately."""
    cost = Cost(options, [], [])
    for n in range(ROUNDS):
        # Who comes second has a warmer machine: each in turn.
        for is_daemon in (True, False) if n % 2 == 0 else (False, True):
            if is_daemon:
                cost.daemon.append(_round(procwatchd(), load, processes, find_in_json))
            else:
                program = forkstat(*options.split())
                cost.forkstat.append(_round(program, load, processes, find_in_forkstat))
    return cost


def _round(
    program: AbstractContextManager[Measured],
    load: Load,
    processes: int,
    find: Callable[[Path, Iterable[int]], Found],
) -> Round:
    with program as running:
        others_before = forks_of_the_machine()
        before_ns = running.cpu_ns()
        pids = load.spawn(processes)
        running.wait_until_quiet()
        used_ns = running.cpu_ns() - before_ns
        # The spawning program itself is one fork.
        other_forks = forks_of_the_machine() - others_before - processes - 1
        running.stop()
        return Round(used_ns / 1000 / processes, processes, other_forks, find(running.output, pids))


def find_in_json(output: Path, pids: Iterable[int]) -> Found:
    """Look for the load in JSON lines: an exec has its arguments where IDENTITY=same, and they are the load's."""
    execs, exits, with_arguments = Counter[int](), Counter[int](), Counter[int]()
    with output.open("rb") as lines:
        for line in lines:
            entry = json.loads(line)
            pid = int(entry.get("PROCWATCH_PID", 0))
            if entry["PROCWATCH_EVENT"] == "exit":
                exits[pid] += 1
            elif entry["PROCWATCH_EVENT"] == "exec":
                execs[pid] += 1
                if entry["PROCWATCH_IDENTITY"] == "same" and MARK in entry.get("PROCWATCH_CMDLINE", ""):
                    with_arguments[pid] += 1
    return _of_load(pids, execs, exits, with_arguments)


def find_in_forkstat(output: Path, pids: Iterable[int]) -> Found:
    """Look for the load in what forkstat printed.

    Its lines are `TIME exec PID UID EUID TTY COMMAND`; where it came too late, there is `<unknown>`, or the bare
    comm instead of the command.
    """
    execs, exits, with_arguments = Counter[int](), Counter[int](), Counter[int]()
    with output.open("rb") as lines:
        for line in lines:
            words = line.split(None, 3)
            if len(words) < 3 or not words[2].isdigit():
                continue
            pid = int(words[2])
            if words[1] == b"exit":
                exits[pid] += 1
            elif words[1] == b"exec":
                execs[pid] += 1
                if MARK.encode() in line:
                    with_arguments[pid] += 1
    return _of_load(pids, execs, exits, with_arguments)


def _of_load(pids: Iterable[int], *counts: Counter[int]) -> Found:
    load = Counter(pids)
    return Found(*((count & load).total() for count in counts))
