# SPDX-License-Identifier: MIT
"""What it costs to be told of threads that nobody asked for: two workers make as many as are wanted, and join them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from statistics import median

from tests.bench.load import Load
from tests.bench.measured import Measured, forkstat, procwatchd
from tests.bench.table import Row, Table

ROUNDS = 3
TARGET_RATIO = 0.2

PROGRAMS: dict[str, Callable[[], AbstractContextManager[Measured]]] = {
    "procwatchd": procwatchd,
    "forkstat": forkstat,
    "forkstat -r": lambda: forkstat("-r"),
}


@dataclass(frozen=True, slots=True)
class Round:
    """CPU time by thread of the storm, and the events that its socket had no room for."""

    usec_per_thread: float
    drops: int


@dataclass(frozen=True, slots=True)
class Threads:
    """All rounds, by program."""

    threads: int
    rounds: dict[str, list[Round]]

    def usec(self, name: str) -> float:
        """The CPU time of the round in the middle."""
        return median(one.usec_per_thread for one in self.rounds[name])


def measure(load: Load, per_worker: int) -> Threads:
    """Measure all programs, alternately."""
    rounds: dict[str, list[Round]] = {name: [] for name in PROGRAMS}
    total = 0
    for n in range(ROUNDS):
        for name in list(PROGRAMS)[:: -1 if n % 2 else 1]:
            with PROGRAMS[name]() as running:
                before_ns = running.cpu_ns()
                total = load.storm(0, "thread", count=per_worker).total
                running.wait_until_quiet()
                used_ns = running.cpu_ns() - before_ns
                rounds[name].append(Round(used_ns / 1000 / total, running.drops()))
    return Threads(total, rounds)


def table(threads: Threads) -> Table:
    """CPU time by thread, and what it is of forkstat's."""
    names = list(threads.rounds)
    own, *peers = (threads.usec(name) for name in names)
    rows = [
        Row(
            "CPU µs a thread", tuple(f"{threads.usec(name):.2f}" for name in names), details=_details(threads)
        ),
        Row(
            "  procwatchd's by this",
            ("", *(f"{own / peer:.2f}" for peer in peers)),
            f"≤ {TARGET_RATIO}",
            own / min(peers) <= TARGET_RATIO,
        ),
        Row(
            "  events lost, worst round",
            tuple(f"{max(one.drops for one in rounds):,}" for rounds in threads.rounds.values()),
        ),
    ]
    return Table(f"{threads.threads:,} threads of two workers, as shipped", tuple(names), rows)


def _details(threads: Threads) -> tuple[str, ...]:
    return tuple(
        f"{name}, each round: {', '.join(f'{one.usec_per_thread:.2f}' for one in rounds)}"
        for name, rounds in threads.rounds.items()
    )
