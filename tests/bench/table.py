# SPDX-License-Identifier: MIT
"""Tables for people: what was measured, by program, beside what is wanted."""

from __future__ import annotations

from dataclasses import dataclass

MARKS = {True: "✓", False: "✗", None: ""}


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a table; `reached` is None where there is no target. `details` are shown below it."""

    work: str
    cells: tuple[str, ...]
    target: str = ""
    reached: bool | None = None
    details: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """Rows whose cells belong to the columns; `notes` follow. Cells of words `are_words`, and not of figures."""

    title: str
    columns: tuple[str, ...]
    rows: list[Row]
    notes: tuple[str, ...] = ()
    are_words: bool = False


def render(table: Table, *, verbose: bool) -> str:
    """The table as text. With `verbose` each row's details, too."""
    head = Row(table.title, table.columns, "target" if any(row.target for row in table.rows) else "")
    lines = [[row.work, *row.cells, row.target, MARKS[row.reached]] for row in (head, *table.rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rendered = []
    for row, texts in zip((head, *table.rows), lines, strict=True):
        rendered.append(_line(texts, widths, are_words=table.are_words))
        if verbose:
            rendered += [f"    {detail}" for detail in row.details]
    return "\n".join([*rendered, *(f"  ({note})" for note in table.notes)])


def _line(texts: list[str], widths: list[int], *, are_words: bool) -> str:
    cells = [
        text.ljust(width) if are_words or n == 0 else text.rjust(width)
        for n, (text, width) in enumerate(zip(texts, widths, strict=True))
    ]
    return "  ".join(cells).rstrip()
