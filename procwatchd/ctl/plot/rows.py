# SPDX-License-Identifier: MIT
"""Which rows a picture has: a forest's nodes, put together where they would be too many to be seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from procwatchd.ctl.lives.forest import Node, resolve
from procwatchd.ctl.lives.lives import Life
from procwatchd.ctl.plot.timeline import Marks, Row
from procwatchd.ctl.show.figures import date

# Limits.
ROWS_LIMIT = 300
NAMED_OTHERS = 4  # of siblings that were put together

# At most that many children of one parent have rows of their own, until all rows are few enough: with one, at most two
# rows for each level of a forest, as each has one others.
_SIBLINGS = (1000, 100, 50, 25, 12, 6, 3, 2, 1)


def rows_of(boots: Sequence[Node], lives: Iterable[Life], marks: Iterable[Marks]) -> list[Row]:
    """The rows, with what is to be drawn in each: as many siblings apart as there is room for."""
    placed = _Placed(lives, marks)
    names = _names_of(boots)
    top = boots[0] if len(boots) == 1 else Node("", Life(("", ""), 0), 0, groups={"": list(boots)})
    rows: list[Row] = []
    for limit in _SIBLINGS:
        rows = []
        _add_rows(rows, top, (), limit, placed, names)
        if len(rows) <= ROWS_LIMIT:
            break
    return rows


@dataclass(frozen=True, slots=True)
class _Content:
    """What is drawn of some processes."""

    lives: list[Life] = field(default_factory=list)
    marks: list[Marks] = field(default_factory=list)

    def add(self, other: _Content) -> None:
        self.lives.extend(other.lives)
        self.marks.extend(other.marks)


class _Placed:
    """Which lives are of which node; of some it is only known below which they were."""

    def __init__(self, lives: Iterable[Life], marks: Iterable[Marks]) -> None:
        self._contents: dict[tuple[Node, bool], _Content] = {}
        for life in lives:
            self._contents.setdefault(resolve(life.place), _Content()).lives.append(life)
        for some in marks:
            node, is_below = resolve(some.node)
            place = node, is_below or some.is_below
            self._contents.setdefault(place, _Content()).marks.append(some)

    def own(self, node: Node) -> _Content:
        return self._contents.get((node, False), _Content())

    def below(self, node: Node) -> _Content:
        return self._contents.get((node, True), _Content())

    def all(self, nodes: Iterable[Node]) -> _Content:
        """What is of nodes and of all below them."""
        found = _Content()
        todo = list(nodes)
        while todo:
            one = todo.pop()
            found.add(self.own(one))
            found.add(self.below(one))
            todo += one.children
        return found


def _add_rows(
    rows: list[Row],
    above: Node,
    rails: tuple[bool, ...],
    limit: int,
    placed: _Placed,
    names: Mapping[Node, str],
) -> None:
    """Append rows for all below a node; its lightest children beyond the limit are one, with what is only counted."""
    apart, others = _split(above.children, limit)
    has_others = bool(others or above.more)
    for at, node in enumerate(apart, 1):
        mine = (*rails, at < len(apart) or has_others)
        own = placed.own(node)
        name = names.get(node) or _name(node)
        row = Row(name, node, mine, own.lives, own.marks, node.count, node.seen, node.failed)
        rows.append(row)
        start = len(rows)
        _add_rows(rows, node, mine, limit, placed, names)
        row.below = len(rows) - start
    if has_others:
        rows.append(_others(above, others, (*rails, False), placed))


def _split(nodes: Sequence[Node], limit: int) -> tuple[Sequence[Node], Sequence[Node]]:
    """Those that have rows of their own, and the others; one alone is no others, unless there must be fewer rows."""
    if len(nodes) <= limit + (limit > 1):
        return nodes, []
    heaviest = set(sorted(nodes, key=_weight, reverse=True)[:limit])
    return [node for node in nodes if node in heaviest], [node for node in nodes if node not in heaviest]


def _weight(node: Node) -> tuple[int, int]:
    seen, failed = _totals([node])
    return failed, seen


def _totals(nodes: Iterable[Node]) -> tuple[int, int]:
    """How many there were in nodes and below them, and how many failed."""
    seen = failed = 0
    todo = list(nodes)
    while todo:
        node = todo.pop()
        seen += node.seen + node.more
        failed += node.failed + node.more_failed
        todo += node.children
    return seen, failed


def _name(node: Node) -> str:
    if not node.kind:
        return node.life.host or "a machine"
    return node.life.comm or node.life.exe.rpartition("/")[2] or "?"


def _names_of(boots: Sequence[Node]) -> dict[Node, str]:
    """What machines are called: with a time where one was booted more than once."""
    times = Counter(map(_name, boots))
    return {
        boot: f"{name}, {date(boot.since_usec)}" if times[name := _name(boot)] > 1 else name for boot in boots
    }


def _others(above: Node, others: Sequence[Node], rails: tuple[bool, ...], placed: _Placed) -> Row:
    """One row for siblings of many kinds, all that is below them, and what is only counted."""
    names = list(dict.fromkeys(map(_name, others)))
    more = ", …" if len(names) > NAMED_OTHERS or (names and above.more) else ""
    seen, failed = _totals(others)
    seen, failed = seen + above.more, failed + above.more_failed
    all_of = placed.all(others)
    all_of.add(placed.below(above))
    name = f"others: {', '.join(names[:NAMED_OTHERS])}{more}" if names else "others"
    return Row(name, above, rails, all_of.lives, all_of.marks, seen, seen, failed, is_others=True)
