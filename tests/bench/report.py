# SPDX-License-Identifier: MIT
"""The results as tables for people, and as JSON."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from typing import Any

from tests.bench.rules import RuleCost
from tests.bench.situations import Situation
from tests.bench.table import MARKS, Row, Table, render

RULES_RATIO = 2.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was measured of one subject: the figures, dataclasses all of them, and the table of them."""

    name: str
    figures: tuple[Any, ...]
    table: Table


def render_all(outcomes: list[Outcome], *, verbose: bool) -> str:
    """All tables, and how many of the targets were reached."""
    rows = [row for outcome in outcomes for row in outcome.table.rows]
    wanted = [row for row in rows if row.reached is not None]
    reached = sum(row.reached is True for row in wanted)
    tables = [render(outcome.table, verbose=verbose) for outcome in outcomes]
    return "\n\n".join([*tables, f"{reached} of {len(wanted)} targets reached"])


def situations_table(situations: list[Situation]) -> Table:
    """Who says what, and last how much of it is right."""
    names = tuple(situations[0].cells)
    rows = [
        Row(
            situation.name,
            tuple(f"{MARKS[cell.right]} {cell.said}" for cell in situation.cells.values()),
        )
        for situation in situations
    ]
    right = [sum(situation.cells[name].right for situation in situations) for name in names]
    rows.append(Row("", tuple(f"  {count} of {len(situations)} right" for count in right)))
    columns = tuple(f"  {name}" for name in names)
    return Table("what is to be told", columns, rows, are_words=True)


def wrong_situations(situations: list[Situation]) -> int:
    """How many of them procwatchd tells wrongly."""
    return sum(not situation.cells["procwatchd"].right for situation in situations)


def rules_table(cost: RuleCost) -> Table:
    """What a record costs by the number of rules, and how much that grows."""
    rows = [
        Row(
            f"{one.rules:,} rules",
            (f"{one.usec:.2f}",),
            details=(f"decided {one.decided:,}; loaded in {one.load_ms:.0f} ms",),
        )
        for one in cost.sets
    ]
    ratio = Row(
        "  the most by the fewest", (f"{cost.ratio:.2f}",), f"≤ {RULES_RATIO:g}", cost.ratio <= RULES_RATIO
    )
    return Table("rules, µs a record", ("procwatchd",), [*rows, ratio])


def as_json(outcomes: list[Outcome]) -> dict[str, object]:
    """All that was measured, and the rows as people see them, for programs."""
    return {
        "system": {"kernel": os.uname().release, "machine": os.uname().machine, "cpus": os.cpu_count()},
        **{
            outcome.name: {
                "figures": [dataclasses.asdict(figures) for figures in outcome.figures],
                "columns": outcome.table.columns,
                "rows": [dataclasses.asdict(row) for row in outcome.table.rows],
            }
            for outcome in outcomes
        },
    }
