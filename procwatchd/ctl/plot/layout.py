# SPDX-License-Identifier: MIT
"""Where each process has its place in a picture of lives over time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate

from procwatchd.ctl.lives.forest import Node
from procwatchd.ctl.lives.lives import Life
from procwatchd.ctl.plot.palettes import PLAIN, Palette
from procwatchd.ctl.plot.rows import rows_of
from procwatchd.ctl.plot.timeline import BAR_MINIMUM, STEP, WIDTH, Bar, Kind, Marks, Row, Timeline, Window

# Limits.
BARS_LIMIT = 5_000
LANES_LIMIT = 5  # bars below each other in a row; more are a band

GAP = 0.5  # between bars of a lane
STEPS = int(WIDTH // STEP)


def lay_out(
    boots: Sequence[Node], lives: Iterable[Life], marks: Iterable[Marks], window: Window, palette: Palette
) -> Timeline:
    """Give all their places: `boots` are a finished Forest's, the others those of it that are to be drawn."""
    drawn = sorted(filter(window.touches, lives), key=_order)
    marks = list(marks)
    words = Counter(map(palette.word_of, drawn))
    for some in marks:
        words[some.word] += len(some)
    painter = _Painter(window, palette.word_of, palette.kinds_of(words))
    _name_hosts(boots, drawn)
    rows = rows_of(boots, drawn, marks)
    for at, row in enumerate(rows):
        painter.fill(row)
        if not row.drawn:
            row.spanned = _span(rows[at + 1 : at + 1 + row.below], window)
    painter.limit_bars(rows)
    counts: Counter[Kind] = Counter()
    for word, count in words.items():
        counts[painter.kind_of(word)] += count
    return Timeline(
        window,
        rows,
        sorted(counts.items(), key=lambda one: (one[0].style == PLAIN, one[0].style)),
        sum(row.drawn for row in rows if row.is_band),
        sum(row.seen - row.drawn for row in rows),
    )


def _order(life: Life) -> tuple[int, int, tuple[str, str]]:
    return life.since_usec, life.pid, life.key


def _name_hosts(boots: Sequence[Node], lives: Iterable[Life]) -> None:
    """Of what is known only as a parent, the host is known by others."""
    hosts = {life.key[0]: life.host for life in lives}
    for boot in boots:
        boot.life.host = boot.life.host or hosts.get(boot.life.key[0], "")


def _extent(since_usec: int, until_usec: int | None, window: Window) -> tuple[float, float]:
    """From where a bar goes, and how far; all of it is within what is drawn."""
    until = window.until_usec if until_usec is None else until_usec
    width = max(BAR_MINIMUM, window.x(until) - window.x(since_usec))
    return min(window.x(since_usec), WIDTH - width), width


def _span(rows: Sequence[Row], window: Window) -> tuple[float, float] | None:
    """From where to where there are bars in any of the rows."""
    times = [(life.since_usec, life.until_usec) for row in rows for life in row.lives]
    marks = [some.times for row in rows for some in row.marks]
    times += [(min(some[::2]), max(some[1::2])) for some in marks]
    extents = [_extent(since, until, window) for since, until in times]
    if not extents:
        return None
    return min(x for x, _ in extents), max(x + width for x, width in extents)


class _Painter:
    """Gives rows their bars, or makes bands of them."""

    def __init__(
        self, window: Window, word_of: Callable[[Life], str], kind_of: Callable[[str], Kind]
    ) -> None:
        self.kind_of = kind_of
        self._window = window
        self._word_of = word_of

    def fill(self, row: Row) -> None:
        """Give each process its bar, in the first lane that is free; a band where there are not lanes enough."""
        row.lives.sort(key=_order)
        if row.marks:
            self._make_band(row)
            return
        ends: list[float] = []
        for life in row.lives:
            x, width = _extent(life.since_usec, life.until_usec, self._window)
            lane = next((lane for lane, end in enumerate(ends) if end + GAP <= x), len(ends))
            if lane == LANES_LIMIT:
                self._make_band(row)
                return
            ends[lane : lane + 1] = [x + width]
            row.bars.append(self._bar(life, lane, x, width))
        row.lanes = max(1, len(ends))

    def _bar(self, life: Life, lane: int, x: float, width: float) -> Bar:
        until = life.until_usec
        is_open_left = not life.is_since_known or life.since_usec < self._window.since_usec
        is_open_right = until is None or not life.is_end_known or until > self._window.until_usec
        return Bar(life, self.kind_of(self._word_of(life)), lane, x, width, is_open_left, is_open_right)

    def limit_bars(self, rows: Sequence[Row]) -> None:
        """Make bands of the rows with the most bars, until there are few enough."""
        total = sum(len(row.bars) for row in rows)
        for row in sorted(rows, key=lambda row: -len(row.bars)):
            if total <= BARS_LIMIT:
                return
            total -= len(row.bars)
            self._make_band(row)

    def _make_band(self, row: Row) -> None:
        """How many lived in each step, by kind; each at least in one."""
        changes: dict[Kind, list[int]] = {}
        for word, since, until in self._times(row):
            x, width = _extent(since, until, self._window)
            change = changes.setdefault(self.kind_of(word), [0] * (STEPS + 1))
            first = min(int(x / STEP), STEPS - 1)
            change[first] += 1
            change[max(first + 1, min(round((x + width) / STEP), STEPS))] -= 1
        kinds = sorted(changes, key=lambda kind: kind.style, reverse=True)
        row.heights = [(kind, list(accumulate(changes[kind]))[:STEPS]) for kind in kinds]
        row.peak = max(
            (sum(at) for at in zip(*(heights for _, heights in row.heights), strict=True)), default=0
        )
        row.bars, row.lanes = [], 1

    def _times(self, row: Row) -> Iterator[tuple[str, int, int | None]]:
        """The word of each process, and when it began and ended."""
        for life in row.lives:
            yield self._word_of(life), life.since_usec, life.until_usec
        for some in row.marks:
            for since, until in zip(some.times[::2], some.times[1::2], strict=True):
                yield some.word, since, until
