# SPDX-License-Identifier: MIT
"""The results as tables for people, and as JSON."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass

from tests.bench.cost import Cost, Round, median_share, median_usec
from tests.bench.memory import Memory
from tests.bench.replay import Replay, Step
from tests.bench.situations import Situation
from tests.bench.storm import DaemonStorm, ForkstatStorm

TARGET_RATIO = 1.5
TARGET_IDLE_MIB = 45


@dataclass(frozen=True, slots=True)
class Results:
    """Everything that was measured, in the order in which it is shown."""

    daemon_storm: DaemonStorm
    forkstat_storm: ForkstatStorm
    costs: list[Cost]
    memory: Memory
    replay: Replay
    situations: list[Situation]

    @property
    def wrong(self) -> int:
        """How many cells of procwatchd are wrong."""
        return sum(not situation.cells["procwatchd"].right for situation in self.situations)


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table; `details` are shown below it."""

    name: str
    daemon: str
    forkstat: str = ""
    ratio: str = ""
    target: str = ""
    details: tuple[str, ...] = ()


_HEAD = Row("", "procwatchd", "forkstat", "ratio", "target")
_MARKS = {True: "✓", False: "✗"}


def render(results: Results, *, verbose: bool) -> str:
    """The tables. With `verbose` each round and each sample, too."""
    return f"{_render_figures(results, verbose=verbose)}\n\n{render_situations(results.situations)}"


def render_situations(situations: list[Situation]) -> str:
    """The table of who says what, and last how much of it is right."""
    names = list(situations[0].cells)
    rows = [["what is to be told", *(f"  {name}" for name in names)]]
    for situation in situations:
        cells = [situation.cells[name] for name in names]
        rows.append([situation.name, *(f"{_MARKS[cell.right]} {cell.said}" for cell in cells)])
    right = [sum(situation.cells[name].right for situation in situations) for name in names]
    rows.append(["", *(f"  {count} of {len(situations)} right" for count in right)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _render_figures(results: Results, *, verbose: bool) -> str:
    rows = [_HEAD, *_rows(results)]
    widths = [max(len(column) for column in columns) for columns in zip(*map(_columns, rows), strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if n == 0 else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(_columns(row), widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
        if verbose:
            lines += [f"    {detail}" for detail in row.details]
    return "\n".join(lines)


def as_json(results: Results) -> dict[str, object]:
    """All that was measured, and what was computed from it, for programs."""
    return {
        "system": {"kernel": os.uname().release, "machine": os.uname().machine, "cpus": os.cpu_count()},
        "daemon_storm": _with(results.daemon_storm, "lost_share", "events_per_second", "unexplained"),
        "forkstat_storm": _with(results.forkstat_storm, "lost_share"),
        "costs": [_with(cost, "ratio") for cost in results.costs],
        "memory": _with(results.memory, "idle_kib", "growth_kib"),
        "replay": {
            field.name: _with(getattr(results.replay, field.name), "usec")
            for field in dataclasses.fields(results.replay)
        },
        "situations": [dataclasses.asdict(situation) for situation in results.situations],
    }


def _with(result: DaemonStorm | ForkstatStorm | Cost | Memory | Step, *names: str) -> dict[str, object]:
    return {**dataclasses.asdict(result), **{name: getattr(result, name) for name in names}}


def _columns(row: Row) -> tuple[str, str, str, str, str]:
    return row.name, row.daemon, row.forkstat, row.ratio, row.target


def _rows(results: Results) -> Iterator[Row]:
    yield from _storm_rows(results.daemon_storm, results.forkstat_storm)
    for cost in results.costs:
        yield from _cost_rows(cost)
    yield from _memory_rows(results.memory)
    yield from _replay_rows(results.replay)


def _storm_rows(daemon: DaemonStorm, forkstat: ForkstatStorm) -> Iterator[Row]:
    terms = daemon.terms
    yield Row(f"vfork storm of {daemon.seconds:g} s: forks made", f"{daemon.forks:,}", f"{forkstat.forks:,}")
    yield Row(
        "  events produced by it, a second",
        f"{daemon.events_per_second:,.0f}",
        f"{forkstat.events_per_second:,.0f}",
    )
    yield Row("  events received, with those of others", f"{terms['RECEIVED']:,}")
    yield Row(
        "  lost",
        f"{daemon.lost:,} = {daemon.lost_share:.2%}",
        f"{forkstat.lost_share:.2%}",
        target="0",
        details=(
            f"procwatchd's ledger: {', '.join(f'{name} {value:,}' for name, value in terms.items())}",
            f"forkstat printed {forkstat.printed_exits:,} exits, of whomever, and noticed {forkstat.overruns} overruns",
        ),
    )
    yield Row(
        "  processes missed (-) or made up (+)",
        f"{daemon.unexplained:+,}" if daemon.unexplained else "0",
        f"{forkstat.printed_forks - forkstat.forks:+,}",
        target="0",
        details=(
            f"dropped by rule {terms['DROPPED']:,}, made {daemon.forks:,}; others forked {daemon.other_forks:,} times",
        ),
    )
    behind = "never" if daemon.behind_seconds is None else f"{daemon.behind_seconds:.1f}"
    yield Row("  s until it was worked off", behind)
    yield Row("  RSS at most, MiB", _mib(daemon.peak_kib))


def _cost_rows(cost: Cost) -> Iterator[Row]:
    daemon, forkstat = cost.daemon, cost.forkstat
    yield Row(
        f"{daemon[0].processes:,} processes, forkstat {cost.options}: CPU µs each",
        f"{median_usec(daemon):.1f}",
        f"{median_usec(forkstat):.1f}",
        f"{cost.ratio:.2f}",
        f"≤ {TARGET_RATIO}",
        details=(_rounds("procwatchd", daemon), _rounds("forkstat", forkstat)),
    )
    yield Row(
        "  execs with their arguments",
        f"{median_share(daemon):.1%}",
        f"{median_share(forkstat):.1%}",
        details=(_shares("procwatchd", daemon), _shares("forkstat", forkstat)),
    )
    yield Row(
        "  execs and exits not written, all rounds",
        f"{sum(one.missing for one in daemon):,}",
        f"{sum(one.missing for one in forkstat):,}",
        target="0",
    )
    yield Row(
        "  forks by others, in the worst round",
        f"{max(one.other_forks for one in daemon):,}",
        f"{max(one.other_forks for one in forkstat):,}",
        target="few",
    )


def _rounds(name: str, rounds: list[Round]) -> str:
    each = ", ".join(f"{one.usec_per_process:.1f} ({one.other_forks:,})" for one in rounds)
    return f"{name}, each round (and forks by others in it): {each}"


def _shares(name: str, rounds: list[Round]) -> str:
    return f"{name}, each round: {', '.join(f'{one.arguments_share:.1%}' for one in rounds)}"


def _memory_rows(memory: Memory) -> Iterator[Row]:
    last = memory.samples[-1]
    yield Row("RSS idle, MiB", _mib(memory.idle_kib), target=f"≤ {TARGET_IDLE_MIB}")
    yield Row(
        f"  after {last.events:,} events of a storm",
        _mib(last.rss_kib),
        details=tuple(f"after {one.events:,} events: {_mib(one.rss_kib)}" for one in memory.samples[1:]),
    )
    yield Row(
        "  of that, grown in the second half of them", f"{memory.growth_kib / 1024:+.1f}", target="flat"
    )
    yield Row("  at most, while events waited", _mib(memory.peak_kib))


def _replay_rows(replay: Replay) -> Iterator[Row]:
    for name, step in (
        ("replay, µs an event: fork and exit, dropped", replay.dropped),
        ("  fork and exit, all exits logged", replay.logged),
        ("an exec's entry, µs: building", replay.build),
        ("  JSON", replay.json),
        ("  native protocol", replay.native),
    ):
        rounds = ", ".join(f"{usec:.2f}" for usec in step.rounds_usec)
        yield Row(name, f"{step.usec:.2f}", details=(f"each round: {rounds}",))


def _mib(kib: int) -> str:
    return f"{kib / 1024:.1f}"
