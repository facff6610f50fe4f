# SPDX-License-Identifier: MIT
"""How often a program is woken up when nothing happens: all of them at the same time, since none makes processes."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass

from tests.bench.load import forks_of_the_machine
from tests.bench.measured import execsnoop, extrace, forkstat, procwatchd
from tests.bench.table import Row, Table

TARGET_PER_SECOND = 1.0


@dataclass(frozen=True, slots=True)
class Idle:
    """Wake-ups of all threads, and CPU time, by program; `forks` were made by others meanwhile."""

    seconds: float
    switches: dict[str, int]
    cpu_ns: dict[str, int]
    forks: int


def measure(seconds: float) -> Idle:
    """Let them all wait."""
    with ExitStack() as stack:
        # procwatchd last: it is quiet once nobody starts any more.
        peers = (execsnoop(), forkstat(), extrace())
        programs = [stack.enter_context(program) for program in (*peers, procwatchd())]
        programs.sort(key=lambda program: program.name != "procwatchd")
        forks = forks_of_the_machine()
        before = [(program.switches(), program.cpu_ns()) for program in programs]
        time.sleep(seconds)
        after = [(program.switches(), program.cpu_ns()) for program in programs]
        forks = forks_of_the_machine() - forks
    names = [program.name for program in programs]
    grown = [(last[0] - first[0], last[1] - first[1]) for first, last in zip(before, after, strict=True)]
    return Idle(
        seconds,
        {name: switches for name, (switches, _) in zip(names, grown, strict=True)},
        {name: used for name, (_, used) in zip(names, grown, strict=True)},
        forks,
    )


def table(idle: Idle) -> Table:
    """Wake-ups and CPU time, by the second."""
    per_second = {name: switches / idle.seconds for name, switches in idle.switches.items()}
    reached = per_second["procwatchd"] <= TARGET_PER_SECOND
    wakes = tuple(f"{one:.2f}" for one in per_second.values())
    used = tuple(f"{one / idle.seconds / 1000:.0f}" for one in idle.cpu_ns.values())
    rows = [
        Row("wake-ups a second", wakes, f"≤ {TARGET_PER_SECOND:g}", reached),
        Row("  CPU µs a second", used),
    ]
    note = f"others made {idle.forks} processes or threads meanwhile: each is events for all but execsnoop.bt"
    return Table(f"nothing happens for {idle.seconds:g} s", tuple(idle.switches), rows, (note,))
