# SPDX-License-Identifier: MIT
"""What a picture of lives over time is made of: rows of who started what, bars from when to when.

A row is a node of the forest: one process, or many of a kind. Each process is a bar of its own, those of one row below
each other where they live at the same time; where they would be too many or too close, the row is a band that says how
many lived when.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from procwatchd.ctl.lives.forest import Node
from procwatchd.ctl.lives.lives import Life

WIDTH = 1_060.0  # of what is drawn over time; of all here, x is from its left
BAR_MINIMUM = 2.0  # wide
STEP = 2  # a band is drawn in such steps


@dataclass(frozen=True, slots=True)
class Window:
    """The time that is drawn, in µs since 1970; not nothing."""

    since_usec: int
    until_usec: int

    @property
    def span_usec(self) -> int:
        """How long that is."""
        return self.until_usec - self.since_usec

    @property
    def step_usec(self) -> int:
        """How long a step of a band is."""
        return int(self.span_usec * STEP / WIDTH)

    def x(self, usec: int) -> float:
        """The place of a time, within what is drawn."""
        return min(max(0.0, (usec - self.since_usec) * WIDTH / self.span_usec), WIDTH)

    def touches(self, life: Life) -> bool:
        """Whether a process lived in that time, as far as is known."""
        return self.overlaps(life.since_usec, life.until_usec)

    def overlaps(self, since_usec: int, until_usec: int | None) -> bool:
        """Whether what went from then to then, or on, has a part in that time."""
        return since_usec <= self.until_usec and (until_usec is None or until_usec >= self.since_usec)


@dataclass(frozen=True, slots=True)
class Kind:
    """What has a colour: a `style` of the picture, and what it stands for."""

    style: str
    text: str


@dataclass(frozen=True, slots=True)
class Marks:
    """Processes of which nothing is kept but when each began and ended, one after the other in `times`.

    They are all of a node, or below it if `is_below`, and have the colour that `word` gets.
    """

    node: Node
    is_below: bool
    word: str
    times: array[int]

    def __len__(self) -> int:
        return len(self.times) // 2


@dataclass(frozen=True, slots=True)
class Bar:
    """A process in its row; `is_open_left` where it began before what is drawn or nobody knows when."""

    life: Life
    kind: Kind
    lane: int
    x: float
    width: float
    is_open_left: bool
    is_open_right: bool


@dataclass(slots=True, eq=False)
class Row:
    """A line of the picture: `lives` and `marks` are those that are drawn of the `count` that it stands for.

    `rails`: for each depth from the left, whether a sibling of that one comes below. It has `bars`, or a band:
    `heights` by kind, how many lived in each step, and `peak`, the most in one. `below` is how many rows are part of
    its tree. `seen` is 0 where it is there only as somebody's parent: from where to where that was says `spanned`.
    `is_others`: it stands for what is below `node` and has no row of its own.
    """

    name: str
    node: Node
    rails: tuple[bool, ...]
    lives: list[Life]
    marks: list[Marks]
    count: int
    seen: int
    failed: int
    is_others: bool = False
    below: int = 0
    spanned: tuple[float, float] | None = None
    bars: list[Bar] = field(default_factory=list)
    lanes: int = 1
    heights: list[tuple[Kind, list[int]]] = field(default_factory=list)
    peak: int = 0

    @property
    def drawn(self) -> int:
        """How many are drawn."""
        return len(self.lives) + sum(map(len, self.marks))

    @property
    def is_band(self) -> bool:
        """Whether its processes are not drawn one by one."""
        return bool(self.heights)


@dataclass(frozen=True, slots=True)
class Timeline:
    """All that is drawn. `kinds`: with how many processes each; `banded` are in bands, `undrawn` are nowhere."""

    window: Window
    rows: Sequence[Row]
    kinds: Sequence[tuple[Kind, int]]
    banded: int
    undrawn: int
