# SPDX-License-Identifier: MIT
"""How much slower a program becomes that starts others, for being watched: it has CPU 0, who watches has CPU 1.

The rounds alternate, without anybody watching among them. Of each monitor the round in the middle is held against that
of nobody. Who else uses CPU 0 meanwhile slows it down as well, but not every process: hence, beside the time of
all of them, that of the process in the middle.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median

from tests.bench import audit
from tests.bench.load import BenchError, Load
from tests.bench.measured import execsnoop, extrace, forkstat, procwatchd
from tests.bench.table import Row, Table

LOAD_CPU = 0
MONITOR_CPU = 1
TARGET_RATIO = 1.05
NOBODY = "nobody"
AUDITD = "auditd"

MONITORS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    NOBODY: nullcontext,
    "procwatchd": procwatchd,
    "forkstat": forkstat,
    "extrace": extrace,
    "execsnoop.bt": execsnoop,
    AUDITD: audit.auditd,
}


@dataclass(frozen=True, slots=True)
class Round:
    """How long a process took, in µs: all of them on average, and the one in the middle."""

    average_usec: float
    middle_usec: float


@dataclass(frozen=True, slots=True)
class Slowdown:
    """All rounds, by monitor; `without_auditd` says why auditd is not among them."""

    processes: int
    rounds: dict[str, list[Round]]
    without_auditd: str | None

    def average_usec(self, name: str) -> float:
        """Of the round in the middle."""
        return median(one.average_usec for one in self.rounds[name])

    def middle_usec(self, name: str) -> float:
        """The same of the processes in the middle."""
        return median(one.middle_usec for one in self.rounds[name])


def measure(load: Load, *, processes: int, rounds: int) -> Slowdown:
    """Measure the spawning program under each monitor, alternately."""
    reason = audit.why_not()
    names = [name for name in MONITORS if name != AUDITD or reason is None]
    times: dict[str, list[Round]] = {name: [] for name in names}
    with ExitStack() as stack:
        stack.enter_context(_on_cpu(MONITOR_CPU))
        if reason is None:
            stack.enter_context(audit.untouched())
        for n in range(rounds):
            for name in names[:: -1 if n % 2 else 1]:
                with MONITORS[name]():
                    times[name].append(_round(load, processes))
    return Slowdown(processes, times, reason)


def _round(load: Load, processes: int) -> Round:
    spawned = load.spawn(processes, cpu=LOAD_CPU)
    each_usec = [(last.at_ns - first.at_ns) / 1000 for first, last in pairwise(spawned)]
    return Round(fmean(each_usec), median(each_usec))


@contextlib.contextmanager
def _on_cpu(cpu: int) -> Iterator[None]:
    """Have this process, and whom it starts meanwhile, on this CPU only."""
    before = os.sched_getaffinity(0)
    if not {LOAD_CPU, MONITOR_CPU} <= before:
        raise BenchError("the slow-down is measured on two CPUs")
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def table(slowdown: Slowdown) -> Table:
    """The time of a process and its ratio, by monitor."""
    names = list(slowdown.rounds)
    ratios = {name: slowdown.average_usec(name) / slowdown.average_usec(NOBODY) for name in names}
    middles = {name: slowdown.middle_usec(name) / slowdown.middle_usec(NOBODY) for name in names}
    reached = ratios["procwatchd"] <= TARGET_RATIO
    rows = [
        Row(
            "µs a process", _cells(slowdown.average_usec(name) for name in names), details=_details(slowdown)
        ),
        Row("  slow-down", _ratios(ratios), f"≤ {TARGET_RATIO}", reached),
        Row("  slow-down of the process in the middle", _ratios(middles)),
        Row("  slowest round by fastest", tuple(f"{_spread(slowdown.rounds[name]):.2f}" for name in names)),
    ]
    notes = () if slowdown.without_auditd is None else (f"auditd: {slowdown.without_auditd}",)
    return Table(f"{slowdown.processes:,} processes, watched from another CPU by", tuple(names), rows, notes)


def _cells(figures: Iterable[float]) -> tuple[str, ...]:
    return tuple(f"{figure:.1f}" for figure in figures)


def _ratios(ratios: dict[str, float]) -> tuple[str, ...]:
    return tuple(f"{ratio:.3f}" for ratio in ratios.values())


def _spread(rounds: list[Round]) -> float:
    each = [one.average_usec for one in rounds]
    return max(each) / min(each)


def _details(slowdown: Slowdown) -> tuple[str, ...]:
    return tuple(
        f"{name}, each round: {', '.join(f'{one.average_usec:.1f}' for one in rounds)}"
        for name, rounds in slowdown.rounds.items()
    )
