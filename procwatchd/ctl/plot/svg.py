# SPDX-License-Identifier: MIT
"""A timeline as SVG: one file that any browser opens, complete in itself; it asks nothing of any network.

All values go through `_text` and ElementTree: what a process calls itself cannot be markup, nor move out of its place.
Labels are clipped to it. What is cut is in the title that a browser shows under the pointer. With scripts, a click on a
row folds what is below it; without them all is there.
"""

from __future__ import annotations

import itertools
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources

from rich.cells import cell_len, set_cell_size

from procwatchd.ctl.lives.lives import Life
from procwatchd.ctl.plot.clockticks import Tick, clock_ticks, exact, span_ticks
from procwatchd.ctl.plot.timeline import BAR_MINIMUM, STEP, WIDTH, Bar, Kind, Row, Timeline, Window
from procwatchd.ctl.show.figures import size, span
from procwatchd.journal.quote import printable

# Limits.
COMMAND_LIMIT = 1_000  # characters of a command line in a title
NAME_LIMIT = 200  # of any other value
SAMPLES = 3  # command lines in the title of a row
DEPTH_SHOWN = 12  # of indentation

MARGIN, GUTTER = 20, 300
LEFT = MARGIN + GUTTER  # of what is drawn over time
PAGE = LEFT + WIDTH + MARGIN
INDENT = 14
ROW, LANE, BAND, AXIS = 20, 9, 34, 36  # heights
MARK_WIDTH, MARK_HEIGHT = 8, 5  # of what says why there is a shade; it is wider where that is
BAR, THIN = 12, 7  # heights of bars: alone, and below each other
CHARACTER = 7.25  # wide, of the labels' font
SMALL = 6.05  # the same of what is beside bars, in the axis and in the legend
TIMES = "\N{MULTIPLICATION SIGN}"
OPEN = 5  # wide, the point of a bar that goes on


@dataclass(frozen=True, slots=True)
class Heading:
    """What is above the picture; `warnings` is what is missing in it."""

    title: str
    lines: Sequence[str]
    warnings: Sequence[str]


@dataclass(frozen=True, slots=True)
class Gap:
    """A time of which something is missing, in µs since 1970, and what."""

    since_usec: int
    until_usec: int
    text: str


def draw(timeline: Timeline, heading: Heading, gaps: Sequence[Gap]) -> str:
    """The whole file, in ASCII."""
    tops = list(itertools.accumulate((_height(row) for row in timeline.rows), initial=0.0))
    root = ET.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "role": "img"})
    _add(root, "title", heading.title)
    _add(root, "style", _resource("plot.css"))
    _add(root, "rect", class_="page", width="100%", height="100%")
    top = _add_legend(root, timeline, _add_heading(root, heading)) + AXIS + 6
    seen = [gap for gap in gaps if timeline.window.overlaps(gap.since_usec, gap.until_usec)]
    _add_ground(root, timeline, seen, top, tops[-1])
    rows = _add(root, "g", id="rows", transform=f"translate(0,{_number(top)})")
    for row, y in zip(timeline.rows, tops, strict=False):
        _add_row(rows, row, y, timeline.window)
    # Above the rows, so that it can stay in sight.
    _add_marks(_add_axis(root, timeline, top, is_above=True), timeline.window, seen)
    _add_axis(root, timeline, top + tops[-1], is_above=False)
    height = top + tops[-1] + AXIS + MARGIN
    root.attrib |= {"viewBox": f"0 0 {_number(PAGE)} {_number(height)}"}
    root.attrib |= {"width": _number(PAGE), "height": _number(height)}
    _add(root, "script", _resource("plot.js"))
    return f"{ET.tostring(root, encoding='us-ascii').decode()}\n"


def _resource(name: str) -> str:
    """A file beside this one, without its first line: whose it is need not be in every picture."""
    text = resources.files("procwatchd.ctl.plot").joinpath(name).read_text("ascii")
    return text.partition("\n")[2]


def _text(value: str, limit: int = NAME_LIMIT) -> str:
    """A value as clean text, not too long."""
    text = printable(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _add(parent: ET.Element, tag: str, text: str = "", **attributes: str | float) -> ET.Element:
    """A new element below another one; `class_` is `class`, and `_` is `-`."""
    named = {
        name.rstrip("_").replace("_", "-"): value if isinstance(value, str) else _number(value)
        for name, value in attributes.items()
    }
    made = ET.SubElement(parent, tag, named)
    made.text = text
    made.tail = "\n"
    return made


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _fit(value: str, width: float, character: float) -> str:
    """As much of a text as there is room for."""
    cells = max(0, int(width / character))
    text = printable(value)[: 2 * cells + 1]
    return text if cell_len(text) <= cells else f"{set_cell_size(text, max(0, cells - 1)).rstrip()}…"


def _add_heading(root: ET.Element, heading: Heading) -> float:
    """The words above; gives where they end."""
    room = PAGE - 2 * MARGIN
    _add_clipped(root, _fit(heading.title, room, 10.9), "title", (MARGIN, MARGIN - 4, room, 24), 18)
    y = MARGIN + 16.0
    for line in (*heading.lines, *heading.warnings):
        style = "warning" if line in heading.warnings else "dim"
        _add_clipped(root, _fit(line, room, CHARACTER), style, (MARGIN, y + 4, room, 18), 14)
        y += 18
    return y


def _add_legend(root: ET.Element, timeline: Timeline, top: float) -> float:
    """What the colours mean; gives where it ends."""
    x, y = float(MARGIN), top + 24
    for kind, lives in timeline.kinds:
        label = _fit(f"{kind.text} {TIMES} {count(lives)}", 40 * SMALL, SMALL)
        width = cell_len(label) * SMALL + 2
        if x + 18 + width > PAGE - MARGIN:
            x, y = float(MARGIN), y + 18
        _add(root, "rect", class_=f"bar {kind.style}", x=x, y=y - 10, width=12, height=12, rx=2)
        _add_clipped(root, label, "small", (x + 18, y - 14, width, 18), 14)
        x += 18 + width + 16
    return y


def _add_axis(root: ET.Element, timeline: Timeline, top: float, *, is_above: bool) -> ET.Element:
    """The time, by the clock and since the beginning: above all rows, or below them."""
    axis = _add(root, "g", id="head" if is_above else "foot", transform=f"translate(0,{_number(top)})")
    _add(axis, "rect", class_="page", y=-AXIS if is_above else 1, width=PAGE, height=AXIS - 1)
    inner = _add(axis, "g", transform=f"translate({_number(LEFT)},0)")
    clock, since = (-22, -8) if is_above else (28, 14)
    _add_ticks(inner, clock_ticks(timeline.window), timeline, clock, "small")
    _add_ticks(inner, span_ticks(timeline.window), timeline, since, "small dim")
    _add(inner, "path", class_="axis", d=f"M0 0H{_number(WIDTH)}")
    return inner


def _add_ground(root: ET.Element, timeline: Timeline, gaps: Sequence[Gap], top: float, height: float) -> None:
    """What goes through all rows: lines at times, and shades where something is missing; as high as the rows."""
    ground = _add(root, "svg", id="ground", x=LEFT, y=top, width=WIDTH, height=height)
    places = (_number(timeline.window.x(tick.usec)) for tick in clock_ticks(timeline.window))
    _add(ground, "path", class_="grid", d=" ".join(f"M{x} 0V{_number(height)}" for x in places))
    for gap in gaps:
        x, width = _extent(gap, timeline.window, BAR_MINIMUM)
        _add(ground, "rect", class_="gap", x=x, y=0, width=width, height=height)


def _add_marks(axis: ET.Element, window: Window, gaps: Sequence[Gap]) -> None:
    """On the axis above each shade, which rows cover: what is missing there."""
    for gap in gaps:
        x, width = _extent(gap, window, MARK_WIDTH)
        made = _add(axis, "rect", class_="mark", x=x, y=-MARK_HEIGHT, width=width, height=MARK_HEIGHT)
        _add(made, "title", _text(gap.text))


def _extent(gap: Gap, window: Window, least: float) -> tuple[float, float]:
    """From where a gap goes, and how far; at least that far, and within what is drawn."""
    since, until = window.x(gap.since_usec), window.x(gap.until_usec)
    width = max(least, until - since)
    return min(max(0.0, (since + until - width) / 2), WIDTH - width), width


def _add_ticks(axis: ET.Element, ticks: Sequence[Tick], timeline: Timeline, y: float, style: str) -> None:
    for tick in ticks:
        half = len(tick.text) * SMALL / 2
        x = min(max(timeline.window.x(tick.usec), half), WIDTH - half)
        _add(axis, "text", tick.text, class_=f"{style} middle", x=x, y=y)


def _height(row: Row) -> float:
    return BAND if row.is_band else max(ROW, row.lanes * LANE + 6)


def _add_row(rows: ET.Element, row: Row, y: float, window: Window) -> None:
    height = _height(row)
    group = _add(rows, "g", class_="row", transform=f"translate(0,{_number(y)})")
    group.set("data-height", _number(height))
    group.set("data-below", str(row.below))
    hit = _add(group, "rect", class_="stripe", x=MARGIN, width=PAGE - 2 * MARGIN, height=height)
    _add(hit, "title", "\n".join(_about_row(row, window)))
    _add(group, "path", class_="rail", d=_rails(row, height))
    _add_label(group, row, height)
    drawn = _add(group, "g", class_="drawn", transform=f"translate({_number(LEFT)},0)")
    if row.is_band:
        most = f"at most {count(row.peak)} in {span(window.step_usec)}"
        _add(group, "text", most, class_="small dim end", x=LEFT - 10, y=BAND - 4)
        _add_band(drawn, row, window)
    elif row.bars:
        _add_bars(drawn, row)
    elif row.spanned is not None:
        _add(drawn, "path", class_="ghost", d=_bracket(*row.spanned))


def _bracket(left: float, right: float) -> str:
    """What is over the time of what is below a row."""
    return f"M{_number(left + 0.5)} {ROW - 5}v-5H{_number(max(right, left + 2) - 0.5)}v5"


def _rails(row: Row, height: float) -> str:
    """The lines from a row to that of its parent, and past it to those of its later siblings."""
    parts = []
    rails = row.rails[1 : DEPTH_SHOWN + 1]
    for depth, goes_on in enumerate(rails, 1):
        x = MARGIN + depth * INDENT - 8
        is_own = depth == len(rails)
        if goes_on or is_own:
            parts.append(f"M{x} 0V{_number(height if goes_on else ROW / 2)}")
        if is_own:
            parts.append(f"M{x} {_number(ROW / 2)}h6")
    if row.below and len(row.rails) <= DEPTH_SHOWN:
        parts.append(f"M{MARGIN + len(row.rails) * INDENT - 8} {ROW - 2}V{_number(height)}")
    return "".join(parts) or "M0 0"


def _add_label(group: ET.Element, row: Row, height: float) -> None:
    """The name, how many, and how many failed; in a picture of its own, which nothing gets out of."""
    x = MARGIN + min(len(row.rails) - 1, DEPTH_SHOWN) * INDENT
    failed = f"{count(row.failed)} failed" if row.failed and row.count > 1 else ""
    times = f"{TIMES} {count(row.count)}" if row.count > 1 else ""
    room = LEFT - 10 - x - (len(failed) + 1 if failed else 0) * SMALL
    name = _fit(row.name, room - (len(times) + 1) * CHARACTER, CHARACTER)
    _add_clipped(group, name, "name" if row.seen else "name dim", (x, 0, room, height), 14)
    at = x + (cell_len(name) + 1) * CHARACTER
    if times:
        _add(group, "text", times, class_="dim", x=at, y=14)
    if failed:
        _add(group, "text", failed, class_="small warning end", x=LEFT - 10, y=14)


def _add_clipped(
    parent: ET.Element, text: str, style: str, place: tuple[float, float, float, float], baseline: float
) -> None:
    """A text in a picture of its own, at x and y, so wide and high, which nothing gets out of."""
    x, y, width, height = place
    inner = _add(parent, "svg", x=x, y=y, width=max(0.0, width), height=height)
    _add(inner, "text", text, class_=style, x=0, y=baseline)


def _add_bars(drawn: ET.Element, row: Row) -> None:
    is_alone = row.lanes == 1
    for bar in row.bars:
        y, height = ((ROW - BAR) / 2, BAR) if is_alone else (4 + bar.lane * LANE, THIN)
        made = _add(drawn, "path", class_=f"bar {bar.kind.style}", d=_shape(bar, y, height))
        _add(made, "title", "\n".join(_about(bar.life)))
    if len(row.bars) == 1:
        _add_note(drawn, row.bars[0])


def _shape(bar: Bar, y: float, height: float) -> str:
    """The outline of a bar, pointed where it goes on."""
    point = min(OPEN, bar.width / 2)
    left, right = (point if bar.is_open_left else 0), (point if bar.is_open_right else 0)
    half, straight = _number(height / 2), _number(bar.width - left - right)
    return (
        f"M{_number(bar.x + left)} {_number(y)}h{straight}"
        f"l{_number(right)} {half}l{_number(-right)} {half}h-{straight}"
        f"l{_number(-left)} -{half}z"
    )


def _add_note(drawn: ET.Element, bar: Bar) -> None:
    """What a process was, in its bar or beside that."""
    life = bar.life
    took = span(life.duration_usec)
    end = life.status if life.has_failed else ""
    words = "  ".join(word for word in (end, took, life.command) if word)
    inside, right, left = bar.width - 14, WIDTH - bar.x - bar.width - 8, bar.x - 8
    if inside >= min(cell_len(words) * SMALL, max(right, left, 240)):
        text, style, x, width = _fit(words, inside, SMALL), "in", bar.x + 7, inside
    elif right >= left or right >= cell_len(words) * SMALL:
        text, style, x, width = _fit(words, right, SMALL), "dim", bar.x + bar.width + 6, right
    else:
        text, style = _fit(words, left, SMALL), "dim"
        width = cell_len(text) * SMALL
        x = bar.x - 6 - width
    _add_clipped(drawn, text, f"small {style}", (x, 0, width, ROW), 13.5)


def _add_band(drawn: ET.Element, row: Row, window: Window) -> None:
    """How many lived when: a silhouette for each kind, on top of each other."""
    scale = (BAND - 6) / max(1, row.peak)
    base = [0.0] * len(row.heights[0][1])
    for kind, heights in row.heights:
        tops = [
            low + (max(1.5, living * scale) if living else 0.0)
            for low, living in zip(base, heights, strict=True)
        ]
        made = _add(drawn, "path", class_=f"bar {kind.style}", d="".join(_silhouette(base, tops)))
        _add(made, "title", "\n".join(_about_row(row, window, kind)))
        base = [min(top, BAND - 6.0) for top in tops]


def _silhouette(base: Sequence[float], tops: Sequence[float]) -> Iterator[str]:
    """Boxes from the one to the other, neighbours of the same height as one."""
    at = 0
    for (low, top), group in itertools.groupby(zip(base, tops, strict=True)):
        steps = len(list(group))
        high = min(top, BAND - 6.0)
        if high > low:
            width, y = steps * STEP, BAND - 3
            yield f"M{at * STEP} {_number(y - low)}V{_number(y - high)}h{width}V{_number(y - low)}z"
        at += steps


def count(number: int) -> str:
    """A number with its thousands apart."""
    return f"{number:,}".replace(",", " ")


def _about_row(row: Row, window: Window, kind: Kind | None = None) -> Iterator[str]:
    """What a row stands for, a line each."""
    node = row.node
    if not row.seen:
        yield from _about_unseen(row)
        return
    yield f"{_text(row.name)}: {count(row.count)} processes" if row.count > 1 else _text(row.name)
    if kind is not None:
        yield f"this colour: {_text(kind.text)}"
    if row.is_band:
        yield f"too many for bars: the height is about how many lived in each {span(window.step_usec)}"
    if row.seen > row.drawn:
        yield f"{count(row.seen - row.drawn)} of them are not drawn"
    if row.is_others and row.failed:
        yield f"failed: {count(row.failed)}"
    elif row.failed:
        yield "failed: " + ", ".join(f"{count(ended)} with {end}" for end, ended in sorted(node.ends.items()))
    for command in itertools.islice(dict.fromkeys(life.command for life in row.lives), SAMPLES):
        yield _text(command)


def _about_unseen(row: Row) -> Iterator[str]:
    """What a row without processes of its own stands for."""
    node = row.node
    yield f"{_text(row.name)}[{node.life.pid}]" if node.life.pid else _text(row.name)
    if node.kind:
        yield "known only as a parent: when it began and ended is not"
    else:
        yield f"a machine, of which there are entries from {exact(node.since_usec)} on"


def _about(life: Life) -> Iterator[str]:
    """What is known of a process, a line each."""
    yield f"{_text(life.comm or '?')}[{life.pid}]: {_text(life.status)}"
    for image in life.images:
        if ran := image.command or image.exe:
            yield _text(ran, COMMAND_LIMIT)
    yield from _about_times(life)
    took = (("CPU", span(life.cpu_usec)), ("memory, at most", size(life.memory_peak)))
    of = (("user", life.user), ("unit", life.unit), ("session", life.session), ("container", life.container))
    for names in (took, (*of, ("tags", life.tags))):
        if line := ", ".join(f"{name} {_text(value)}" for name, value in names if value):
            yield line
    if life.parent is not None:
        yield f"started by {_text(life.parent.comm or '?')}[{life.parent.pid}]"


def _about_times(life: Life) -> Iterator[str]:
    begun = "began" if life.is_since_known else "when it began is not known; first heard of"
    yield f"{begun} {exact(life.since_usec)}"
    if life.until_usec is not None:
        lived = f", after {span(life.duration_usec)}" if life.duration_usec is not None else ""
        ended = "ended" if life.is_end_known else "ended unseen, by"
        yield f"{ended} {exact(life.until_usec)}{lived}"
