# SPDX-License-Identifier: MIT
"""Lives as trees of who started what, where much of the same is folded into one node.

Siblings are of one kind if they run the same executable, or have the same name where that is unknown. From the fifth of
a kind on they are one node, and what is below them is put together by the same rule. They are folded as they end: what
is kept is the living and a few nodes for each kind, not what was read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from procwatchd.ctl.lives.lives import Life, Lives
from procwatchd.ctl.past.entries import Entry

# Limits.
FOLD_FROM = 5  # siblings of a kind
NODES_LIMIT = 20_000  # above, what ends and has nothing below it is only counted
DEPTH_LIMIT = 100  # of nodes below nodes; what is deeper is only counted
ENDS_LIMIT = 8  # ways to fail that a node tells apart
BOOTS_LIMIT = 256  # above, they are put together

OTHER_ENDS = "otherwise"
VARIOUS = "various"
_NEVER = 1 << 62


@dataclass(slots=True, eq=False)
class Node:
    """A process; or many of one kind with the same parent, folded.

    `life` is the one; of many the first that failed, else the first. `count` is how many it stands for, `seen` how many
    of these were asked for and have entries of their own: 0 where it is there only as somebody's parent. All numbers
    are of the `seen` alone, and None where nothing is known: `cpu_usec` is the sum, `memory_peak` the most. Times are
    µs since 1970, `until_usec` the last end, so far. `succeeded` are those that ended with code 0; `ends` says how many
    of those that failed did how, as `code 1` or `SIGSEGV`. `user`, `unit` and `container` are VARIOUS where they are
    not the same. `is_since_known` is of that with the first `since_usec`. `more` is how many were below it that are in
    no node, `more_failed` how many of these failed.
    """

    kind: str
    life: Life
    since_usec: int
    is_since_known: bool = False
    user: str = ""
    unit: str = ""
    container: str = ""
    until_usec: int | None = None
    count: int = 1
    seen: int = 0
    succeeded: int = 0
    failed: int = 0
    living: int = 0
    cpu_usec: int | None = None
    memory_peak: int | None = None
    shortest_usec: int | None = None
    longest_usec: int | None = None
    ends: dict[str, int] = field(default_factory=dict)
    more: int = 0
    more_failed: int = 0
    # Forest's own: what is below it by kind; and what it has become a part of, where it may be only counted in `more`.
    groups: dict[str, list[Node]] = field(default_factory=dict)
    into: Node | None = None
    is_dropped: bool = False

    @property
    def is_folded(self) -> bool:
        """Whether it stands for many."""
        return self.count > 1

    @property
    def children(self) -> list[Node]:
        """What they started, the earliest first."""
        nodes = [node for group in self.groups.values() for node in group]
        return sorted(nodes, key=lambda node: node.since_usec)


class Forest:
    """Takes entries in their order; `finish` gives the trees.

    `is_wanted` says of a life, when it has ended or nothing more is read, whether it is asked for; those that started
    it are shown with it. Without `is_folding` each process has a node of its own. `processes`, `failed` and `living`
    count those that were asked for, whether they have a node or not.
    """

    def __init__(
        self,
        *,
        is_folding: bool = True,
        is_wanted: Callable[[Life], bool] = lambda _life: True,
        nodes_limit: int = NODES_LIMIT,
    ) -> None:
        self.processes = 0
        self.failed = 0
        self.living = 0
        self.lives = Lives(self._on_end)
        self._is_wanted = is_wanted
        self._fold_from = FOLD_FROM if is_folding else _NEVER
        self._nodes = 0
        self._nodes_limit = nodes_limit
        self._boots: dict[str, Node] = {}
        # Of the living who have something below them: nodes that are below nothing yet.
        self._waiting: dict[Node, None] = {}

    def take(self, entry: Entry) -> None:
        """Learn from an entry."""
        self.lives.take(entry)

    def finish(self) -> list[Node]:
        """A node for each boot of each machine, with the trees as its children; its `life` has nothing but the host.

        No tree is deeper than DEPTH_LIMIT. Nothing can be taken any more.
        """
        for life in self.lives.living.values():
            self._on_end(life)
        while self._waiting:
            self._place(next(iter(self._waiting)))
        boots = sorted(self._boots.values(), key=lambda boot: boot.since_usec)
        for boot in boots:
            self._cut_depth(boot)
        return boots

    def _on_end(self, life: Life) -> None:
        """Give a life its place: it has ended, or nothing more will be heard of it."""
        node: Node | None = life.place
        if life.is_seen and self._is_wanted(life):
            self.processes += 1
            self.failed += life.has_failed
            self.living += life.until_usec is None
            self._boot(life)
            node = node or self._new(life)
            _fill(node, life)
        if node is not None:
            self._place(node)

    def _new(self, life: Life) -> Node:
        node = life.place = Node("", life, life.since_usec)
        self._nodes += 1
        return node

    def _place(self, node: Node) -> None:
        """Put a node below that of what started it, or only count it there."""
        self._waiting.pop(node, None)
        _name(node, node.life)
        above, is_dropped = self._above(node.life)
        siblings = above.groups.get(node.kind, ())
        is_one_too_many = self._nodes > self._nodes_limit and not node.groups
        if is_dropped or (is_one_too_many and not self._is_to_fold(siblings, node)):
            self._drop(node, above)
        else:
            self._add(node, above)

    def _above(self, life: Life) -> tuple[Node, bool]:
        """The node for what started it, and whether that is only counted there."""
        parent = life.parent
        if parent is None:
            return self._boot(life), False
        if parent.place is None:
            node = self._new(parent)
            if parent.until_usec is None:
                self._waiting[node] = None
            else:
                self._place(node)
        return resolve(parent.place)

    def _boot(self, life: Life) -> Node:
        boot = life.key[0]
        node = self._boots.get(boot)
        if node is None:
            boot = boot if len(self._boots) < BOOTS_LIMIT else ""
            top = Life((boot, ""), 0, host=life.host)
            node = self._boots.setdefault(boot, Node("", top, life.since_usec))
        node.since_usec = min(node.since_usec, life.since_usec)
        node.life.host = node.life.host or life.host
        return node

    def _is_to_fold(self, siblings: list[Node] | tuple[()], node: Node) -> bool:
        return bool(siblings) and node.count + sum(one.count for one in siblings) >= self._fold_from

    def _add(self, node: Node, above: Node) -> None:
        """Put a node below another, and together with its siblings where these are many now; so too what is below."""
        todo = [(node, above)]
        while todo:
            node, above = todo.pop()
            siblings = above.groups.setdefault(node.kind, [])
            if not self._is_to_fold(siblings, node):
                siblings.append(node)
                continue
            first, *others = siblings
            del siblings[1:]
            for one in (*others, node):
                todo += ((child, first) for child in one.children)
                _merge(one, first)
                self._nodes -= 1

    def _drop(self, node: Node, above: Node) -> None:
        """Count a node, and those below it, in `more` alone."""
        todo = [node]
        while todo:
            node = todo.pop()
            todo += node.children
            above.more += node.seen + node.more
            above.more_failed += node.failed + node.more_failed
            _become(node, above)
            node.is_dropped = True
            self._nodes -= 1

    def _cut_depth(self, boot: Node) -> None:
        level = [boot]
        for _ in range(DEPTH_LIMIT):
            level = [child for node in level for child in node.children]
        for node in level:
            for child in node.children:
                self._drop(child, node)
            node.groups = {}


def _name(node: Node, life: Life) -> None:
    """What is known of one process even where it has no entries of its own."""
    node.kind = life.exe or life.comm or "?"
    node.since_usec, node.is_since_known = life.since_usec, life.is_since_known
    node.user, node.unit, node.container = life.user, life.unit, life.container


def _fill(node: Node, life: Life) -> None:
    """What is known of one process."""
    node.seen = 1
    node.until_usec = life.until_usec
    node.living = int(life.until_usec is None)
    node.cpu_usec, node.memory_peak = life.cpu_usec, life.memory_peak
    node.shortest_usec = node.longest_usec = _ran(life)
    node.succeeded = int(life.exit_code == 0 and not life.has_failed)
    if life.has_failed:
        node.failed = 1
        node.ends[life.exit_signal or f"code {life.exit_code}"] = 1


def _ran(life: Life) -> int | None:
    if life.duration_usec is not None or life.until_usec is None:
        return life.duration_usec
    return life.until_usec - life.since_usec if life.is_since_known and life.is_end_known else None


def _merge(one: Node, into: Node) -> None:
    """Make two nodes of a kind one."""
    if (bool(one.failed), bool(one.seen)) > (bool(into.failed), bool(into.seen)):
        into.life = one.life
    into.user = _common(into.user, one.user)
    into.unit = _common(into.unit, one.unit)
    into.container = _common(into.container, one.container)
    if one.since_usec < into.since_usec:
        into.since_usec, into.is_since_known = one.since_usec, one.is_since_known
    into.until_usec = _most(into.until_usec, one.until_usec)
    into.count += one.count
    into.seen += one.seen
    into.succeeded += one.succeeded
    into.failed += one.failed
    into.living += one.living
    if one.cpu_usec is not None:
        into.cpu_usec = (into.cpu_usec or 0) + one.cpu_usec
    into.memory_peak = _most(into.memory_peak, one.memory_peak)
    into.longest_usec = _most(into.longest_usec, one.longest_usec)
    if one.shortest_usec is not None:
        into.shortest_usec = min(one.shortest_usec, into.shortest_usec or one.shortest_usec)
    for end, count in one.ends.items():
        told = end if end in into.ends or len(into.ends) < ENDS_LIMIT else OTHER_ENDS
        into.ends[told] = into.ends.get(told, 0) + count
    into.more += one.more
    into.more_failed += one.more_failed
    _become(one, into)


def _become(node: Node, into: Node) -> None:
    """Keep of a node nothing but where it went, for those that will be below it."""
    node.into = into
    node.life = into.life
    node.groups = {}


def resolve(node: Node) -> tuple[Node, bool]:
    """The node that it is a part of now, and whether it is only counted there."""
    is_dropped = False
    while node.into is not None:
        is_dropped = is_dropped or node.is_dropped
        node = node.into
    return node, is_dropped


def _common(one: str, other: str) -> str:
    """What two say of themselves, if they do not contradict each other."""
    return one or other if one == other or not one or not other else VARIOUS


def _most(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else max(one, other)
