# SPDX-License-Identifier: MIT
"""Which of many rules may match a record, without trying them.

Each rule waits under the values of one requirement; a record's values are looked up, and who waits there is tried, with
those that require nothing. Words are looked up in a dict; for parts of texts one search for all of them says that
none is there, most often; else it is asked of ever fewer of them.

What waits in small numbers is tried at once, as that is cheaper. There are only so many fields, so that this
does not grow with the rules, either.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

from procwatchd.process.fields import Value
from procwatchd.process.model import Record
from procwatchd.rules.names import resolve
from procwatchd.rules.pattern import text_of
from procwatchd.rules.regex import compile_literals
from procwatchd.rules.requirement import DELETED, How, Lookup, Requirements, Wanted

# Fewer rules than this are tried sooner than looked up.
FEW = 4
# As many rules as this under one value are a reason to take another requirement.
CROWD = 16
# Texts in a leaf of the tree of searches, branches of a node, and texts below one root: a search for more than that may
# become too large for the engine.
LEAF, BRANCHES, ROOT = 8, 4, 1024

_Item = TypeVar("_Item")
_Waiting = dict[Wanted, list[int]]
# The positions of the items that may match a record, in any order.
_Find = Callable[[Record], Iterable[int]]
# Adds to the list what is found in the text.
_Search = Callable[[str, list[str]], None]

_NONE: tuple[int, ...] = ()


class Index(Generic[_Item]):
    """Items in order, each with what it requires of a record. `is_plain`: all are tried for each."""

    def __init__(self, items: Iterable[tuple[_Item, Requirements]]) -> None:
        pairs = list(items)
        self._items = [item for item, _ in pairs]
        waiting = _waiting([requirements for _, requirements in pairs])
        looked_up = {at for values in waiting.values() for found in values.values() for at in found}
        self._always = [at for at in range(len(pairs)) if at not in looked_up]
        self._always_items = [self._items[at] for at in self._always]
        self._finds = [_find(lookup, values) for lookup, values in waiting.items()]

    @property
    def is_plain(self) -> bool:
        """Whether nothing is looked up."""
        return not self._finds

    def tried(self, record: Record) -> Sequence[_Item]:
        """The items to try for `record`, in order: what is not among them cannot match."""
        found: list[int] = []
        for find in self._finds:
            found += find(record)
        if not found:
            return self._always_items
        items = self._items
        return [items[at] for at in sorted(found + self._always)]


def _waiting(required: list[Requirements]) -> dict[Lookup, _Waiting]:
    """Where each item waits, by its position; those that shall be tried always are nowhere."""
    waiting: dict[Lookup, _Waiting] = defaultdict(lambda: defaultdict(list))
    numbers: Counter[Lookup] = Counter()
    for at, each in enumerate(required):
        if each:
            lookup = min(each, key=lambda lookup: _preference(lookup, each[lookup], waiting[lookup]))
            numbers[lookup] += 1
            for value in each[lookup]:
                waiting[lookup][value].append(at)
    return {lookup: values for lookup, values in waiting.items() if numbers[lookup] >= FEW}


def _preference(lookup: Lookup, values: frozenset[Wanted], waiting: _Waiting) -> tuple[bool, How, int]:
    """The least is best: no crowd waits there, the most telling, as few values as can be."""
    is_crowded = any(len(waiting.get(value, ())) >= CROWD for value in values)
    return is_crowded, lookup.how, len(values)


def _find(lookup: Lookup, waiting: _Waiting) -> _Find:
    get: Callable[[Record], Value] = resolve(lookup.key).get
    if lookup.how is How.PART:
        return _find_parts(get if lookup.cased else _folded(get), waiting)
    if lookup.how is How.BASENAME:
        get = _basename(get)
    if not lookup.cased:
        get = _folded(get)
    # A text is bytes or str, by the field it is in.
    found = {form: tuple(at) for value, at in waiting.items() for form in (value, _as_bytes(value))}
    return lambda record: found.get(get(record), _NONE)


def _as_bytes(value: Wanted) -> Value:
    return value.encode() if isinstance(value, str) else value


def _basename(get: Callable[[Record], Value]) -> Callable[[Record], Value]:
    def read(record: Record) -> Value:
        path = get(record)
        return path.removesuffix(DELETED).rpartition(b"/")[2] if isinstance(path, bytes) else None

    return read


def _folded(get: Callable[[Record], Value]) -> Callable[[Record], Value]:
    def read(record: Record) -> Value:
        text = text_of(get(record))
        return None if text is None else text.casefold()

    return read


def _find_parts(get: Callable[[Record], Value], waiting: _Waiting) -> _Find:
    # The shortest are the likeliest, and best asked together.
    literals = sorted(map(str, waiting), key=len)
    roots = [_search(literals[at : at + ROOT]) for at in range(0, len(literals), ROOT)]

    def find(record: Record) -> Iterable[int]:
        text = text_of(get(record))
        found: list[str] = []
        if text is not None:
            for root in roots:
                root(text, found)
        return {at for literal in found for at in waiting[literal]} if found else _NONE

    return find


def _search(literals: list[str]) -> _Search:
    """The tree of searches that finds which of `literals` are in a text."""
    is_any_in = compile_literals(literals)
    if len(literals) <= LEAF:
        inner = [_leaf(literals)]
    else:
        size = -(-len(literals) // BRANCHES)
        inner = [_search(literals[at : at + size]) for at in range(0, len(literals), size)]

    def search(text: str, found: list[str]) -> None:
        if is_any_in(text):
            for each in inner:
                each(text, found)

    return search


def _leaf(literals: list[str]) -> _Search:
    def search(text: str, found: list[str]) -> None:
        found += [literal for literal in literals if literal in text]

    return search
