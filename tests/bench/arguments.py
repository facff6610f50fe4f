# SPDX-License-Identifier: MIT
"""Whose execs are told with their arguments: of programs that end as soon as they can.

Each process has arguments of its own, so that a line tells whose they are: captured is what stands beside the right
PID.

Facts:
- A dynamic program lives for some hundred µs, a static one for less than a hundred, one without libc for a few
  instructions: who reads /proc must do so in that time.
- extrace and forkstat print an exec as a line, PID and then command line; execsnoop.bt prints calls of execve.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.load import MARK, WORKERS, Load
from tests.bench.measured import Measured, execsnoop, extrace, forkstat, procwatchd
from tests.bench.table import Row, Table

WANTED_SHARE = 0.999
WANTED_SHARE_BY_PROC = 0.99
RATE = 500
RECORDER = "procwatchd"
PROC = "procwatchd, proc"

LISTENERS: dict[str, Callable[[], AbstractContextManager[Measured]]] = {
    RECORDER: lambda: procwatchd("capture: {arguments: auto}"),
    PROC: lambda: procwatchd("capture: {arguments: proc}"),
    "forkstat": lambda: forkstat("-e", "exec"),
    "forkstat -r": lambda: forkstat("-r", "-e", "exec"),
    "extrace": extrace,
    "execsnoop.bt": execsnoop,
}


@dataclass(frozen=True, slots=True)
class Case:
    """A program, and how it is run: `rate` a second, 0 for full speed, beside so many busy `loops`."""

    program: str
    rate: int
    loops: int

    @property
    def name(self) -> str:
        """As the table has it."""
        speed = f"{self.rate}/s" if self.rate else "full speed"
        return f"{self.program}, {speed}{f', {self.loops} busy loops' if self.loops else ''}"


CASES = [
    Case(program, rate, loops)
    for program in ("dynamic", "static", "without libc")
    for rate, loops in ((0, 0), (RATE, 0), (0, WORKERS))
]

# A process: its PID, its case, its number.
Told = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Captured:
    """Of one listener and case: how many there were, had their arguments, had another's, were told by the recorder."""

    processes: int
    captured: int
    mistaken: int
    recorded: int

    @property
    def share(self) -> float:
        """The share of execs that were told with their arguments."""
        return self.captured / self.processes


@dataclass(frozen=True, slots=True)
class Arguments:
    """By listener, in the order of `CASES`."""

    by_listener: dict[str, list[Captured]]


def measure(load: Load, *, processes: int, say: Callable[[str], None]) -> Arguments:
    """Run all cases for each listener, with so many processes; half of them where they come at a rate."""
    programs = {
        "dynamic": load.program("ends.c", "dynamic"),
        "static": load.program("ends.c", "static", "-static"),
        "without libc": load.program("instant.c", "instant", "-nostdlib", "-static"),
    }
    by_listener = {}
    for name, listener in LISTENERS.items():
        say(f"arguments: {name}")
        by_listener[name] = _measure_listener(load, programs, processes, listener)
    return Arguments(by_listener)


def _measure_listener(
    load: Load,
    programs: dict[str, str],
    processes: int,
    listener: Callable[[], AbstractContextManager[Measured]],
) -> list[Captured]:
    made: list[set[Told]] = []
    with listener() as running:
        for n, case in enumerate(CASES):
            command = programs[case.program], f"{MARK}-{n}"
            count = processes // 2 if case.rate else processes
            with load.busy(case.loops):
                spawned = load.spawn(count, command, rate=case.rate)
                running.wait_until_quiet()
            made.append({(one.pid, n, number) for number, one in enumerate(spawned)})
        running.stop()
        told = dict(read_told(running.name, running.output))
    return [_compare(one, n, told) for n, one in enumerate(made)]


def _compare(made: set[Told], case: int, told: dict[Told, bool]) -> Captured:
    of_case = {one for one in told if one[1] == case}
    right = made & of_case
    return Captured(len(made), len(right), len(of_case - made), sum(told[one] for one in right))


def read_told(name: str, output: Path) -> Iterator[tuple[Told, bool]]:
    """The processes that a listener told of with arguments of ours, and whether the recorder gave them."""
    with output.open("rb") as lines:
        for line in lines:
            if MARK.encode() not in line:
                continue
            told = _told_by_procwatchd(line) if name == "procwatchd" else _told_by_peer(name, line)
            if told is not None:
                yield told


_OURS = re.compile(rf"{MARK}-(\d+) (\d+)\b")
_PEERS = {
    "forkstat": re.compile(rb" exec +(\d+) "),
    "extrace": re.compile(rb" *(\d+) "),
    "execsnoop.bt": re.compile(rb"\d+ +(\d+) "),
}


def _told_by_procwatchd(line: bytes) -> tuple[Told, bool] | None:
    entry = json.loads(line)
    ours = _OURS.search(str(entry.get("PROCWATCH_CMDLINE", "")))
    if entry["PROCWATCH_EVENT"] != "exec" or ours is None:
        return None
    told = int(entry["PROCWATCH_PID"]), int(ours[1]), int(ours[2])
    return told, entry.get("PROCWATCH_SOURCE") == "recorder"


def _told_by_peer(name: str, line: bytes) -> tuple[Told, bool] | None:
    pid = _PEERS[name].search(line)
    ours = _OURS.search(line.decode("utf-8", "replace"))
    return None if pid is None or ours is None else ((int(pid[1]), int(ours[1]), int(ours[2])), False)


def table(arguments: Arguments) -> Table:
    """The shares, and how many had the arguments of another process."""
    by_listener = arguments.by_listener
    count = max(one.processes for one in by_listener[RECORDER])
    rows = [_row(case, {name: each[n] for name, each in by_listener.items()}) for n, case in enumerate(CASES)]
    mistaken = {name: sum(one.mistaken for one in each) for name, each in by_listener.items()}
    right = mistaken[RECORDER] == mistaken[PROC] == 0
    rows.append(Row("told of another process", tuple(map(str, mistaken.values())), "0", right))
    return Table(f"arguments captured, of {count:,} execs (half at {RATE}/s)", tuple(by_listener), rows)


def _row(case: Case, captured: dict[str, Captured]) -> Row:
    target, reached = f"≥ {WANTED_SHARE:.1%}", captured[RECORDER].share >= WANTED_SHARE
    if case.program == "dynamic":
        target += f", by /proc ≥ {WANTED_SHARE_BY_PROC:.0%}"
        reached = reached and captured[PROC].share >= WANTED_SHARE_BY_PROC
    recorded = captured[RECORDER].recorded / captured[RECORDER].processes
    cells = tuple(f"{one.share:.2%}" for one in captured.values())
    return Row(f"  {case.name}", cells, target, reached, (f"from the recorder: {recorded:.2%}",))
