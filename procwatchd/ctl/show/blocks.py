# SPDX-License-Identifier: MIT
"""Small tables with a title, side by side where there is room, and as many as fit: for `top` and `status`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from procwatchd.ctl.show.figures import size, span
from procwatchd.ctl.show.screen import clean

# Columns of a terminal that a block needs, and a table never takes more of.
BLOCK_WIDTH = 58
GAP = 3

_LEAST_LINES = 3  # of a block; before that, whole blocks are left out
_LONGEST = 1 << 10
_RATES = (("s", 1_000_000), ("min", 60_000_000), ("h", 3_600_000_000), ("d", 86_400_000_000))


def count_text(count: int) -> Text:
    """A number of things."""
    return Text(f"{count:,}")


def span_text(usec: int | None) -> Text:
    """A span of time; "" for None."""
    return Text(span(usec))


def size_text(count: int | None) -> Text:
    """A size in bytes; "" for None."""
    return Text(size(count))


def share_text(part: int, whole: int) -> Text:
    """A part as a percentage."""
    return Text(f"{100 * part / whole:.1f}%" if whole else "")


def rate(count: int, usec: int) -> str:
    """So many in a time: by second, or by minute, hour or day where that would be less than one; "" for none."""
    if count <= 0 or usec <= 0:
        return ""
    name, unit_usec = next((one for one in _RATES if count * one[1] >= usec), _RATES[-1])
    by_unit = count * unit_usec / usec
    if by_unit < 0.05:
        return f"<0.1/{name}"
    return f"{by_unit:,.{1 if by_unit < 9.95 else 0}f}/{name}"


class Name:
    """A name from anywhere in one line of a terminal; of one that is too long the end is shown, as of a path."""

    def __init__(self, value: str, style: str = "") -> None:
        self._text = clean(value, style, _LONGEST)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        text = self._text
        if console.is_terminal and text.cell_len > options.max_width:
            text = Text(f"…{_end(text.plain, options.max_width - 1)}", text.style)
        yield text

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(1, max(1, self._text.cell_len)).with_maximum(options.max_width)


def _end(text: str, width: int) -> str:
    """As much of the end as is not wider."""
    kept = text[max(0, len(text) - max(0, width)) :]
    while cell_len(kept) > width and kept:
        kept = kept[1:]
    return kept


@dataclass(frozen=True, slots=True)
class Block:
    """A table: figures to the right; the last `names` columns are names, and take the room there is.

    `is_whole`: it is shown with all of its rows, or not at all. Without rows it says `none`.
    """

    title: str
    head: tuple[str, ...]
    rows: Sequence[tuple[RenderableType, ...]]
    names: int = 1
    is_whole: bool = False
    none: str = "none"

    def height(self, lines: int) -> int:
        """Lines on a terminal, with at most this many rows."""
        rows = len(self.rows) if self.is_whole else min(lines, len(self.rows))
        return 1 + any(self.head) + rows if rows else 2

    def table(self, lines: int) -> RenderableType:
        """What is shown."""
        title = Text(self.title, "bold underline")
        if not self.rows:
            return Group(title, Text(self.none, "dim"))
        made = Table(box=None, pad_edge=False, header_style="dim", expand=True, show_header=any(self.head))
        for at, name in enumerate(self.head):
            if at < len(self.head) - self.names:
                made.add_column(name, justify="right", no_wrap=True)
            else:
                made.add_column(name, ratio=1, overflow="fold")
        for row in self.rows if self.is_whole else self.rows[:lines]:
            made.add_row(*row)
        return Group(title, made)


def side_by_side(
    blocks: Sequence[Block], lines: int, width: int | None, height: int | None
) -> RenderableType:
    """Blocks in rows, each with at most `lines` lines; one below the other without a `width`.

    Where they are higher than `height`, they have fewer lines, and then the last are left out.
    """
    columns = 1 if width is None else max(1, (width + GAP) // (BLOCK_WIDTH + GAP))
    rows = [blocks[at : at + columns] for at in range(0, len(blocks), columns)]
    left_out = 0
    if height is not None:
        while lines > _LEAST_LINES and _height(rows, lines) > height:
            lines -= 1
        while len(rows) > 1 and _height(rows, lines) + (left_out > 0) > height:
            left_out += len(rows.pop())
    shown: list[RenderableType] = [line for row in rows for line in (_row(row, columns, lines), Text())]
    if left_out:
        shown[-1] = Text(f"{left_out} more tables have no room here", "dim")
    return Group(*shown)


def lines_of(texts: Sequence[Text], width: int | None) -> int:
    """How many lines these take on a terminal."""
    return sum(1 if width is None else max(1, -(-text.cell_len // width)) for text in texts)


def _height(rows: Sequence[Sequence[Block]], lines: int) -> int:
    return sum(1 + max(block.height(lines) for block in row) for row in rows)


def _row(blocks: Sequence[Block], columns: int, lines: int) -> RenderableType:
    grid = Table.grid(expand=True, padding=(0, GAP, 0, 0), pad_edge=False)
    for _ in range(columns):
        grid.add_column(ratio=1)
    grid.add_row(*(block.table(lines) for block in blocks))
    return grid
