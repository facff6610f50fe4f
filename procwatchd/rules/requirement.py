# SPDX-License-Identifier: MIT
"""What a record must have so that a match can hold: something that can be looked up, for many rules at once.

Facts:
- Of keys that must all hold, each alone is necessary; of alternatives, what all of them require, one way or another.
  A `not`, an absent field, a comparison and a tag require nothing here; nor does `ancestor.`, whose values are many.
- Where a match compares with bytes and finds them, their text has the text, bytes that are not UTF-8 being U+FFFD:
  no character begins inside another.
- Without case, `k` is also the Kelvin sign and `s` the long s: str.casefold() makes of whatever matches an ASCII letter
  that letter, and of one character never a part of it. What other alphabets do depends on the version of Unicode.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from procwatchd.process.fields import Field, Kind
from procwatchd.rules.literals import literals_of
from procwatchd.rules.names import resolve
from procwatchd.rules.pattern import Part, parse_widened

# Limits.
LITERAL_MIN = 3  # characters: what is shorter is in nearly every value
LITERAL_LIMIT = 32  # characters looked for, the last: of paths these tell more

DELETED = b" (deleted)"  # the kernel's mark behind the path of a file that was removed or replaced
EXECUTABLES = ("EXE", "PARENT_EXE", "TRACER_EXE", "KILLER_EXE")
_REPLACEMENT = "\ufffd"  # may be itself, or any byte that is not UTF-8
_NOTHING_REQUIRED = ("lt", "lte", "gt", "gte", "exists")


class How(IntEnum):
    """What is looked up, the most telling first."""

    BASENAME = 0  # of a path, what follows its last slash
    TEXT = 1
    PART = 2  # of a text, anywhere in it
    NUMBER = 3


@dataclass(frozen=True, slots=True)
class Lookup:
    """Something of a record to look up: of the field that rules call `key`. `cased`: texts are not folded."""

    how: How
    key: str
    cased: bool


Wanted = str | int
# Each alone is necessary: the lookup finds one of its values.
Requirements = dict[Lookup, frozenset[Wanted]]


def requirements_of(tree: dict[str, Any], *, cased: bool) -> Requirements:
    """What a record must have for the match that `tree`, which has no problems, means."""
    found = _of_mapping(tree, cased=cased)
    whole = {lookup.key for lookup in found if lookup.how in (How.BASENAME, How.TEXT)}
    # Where a whole value is required, its parts tell no more.
    return {
        lookup: values
        for lookup, values in found.items()
        if lookup.how is not How.PART or lookup.key not in whole
    }


def _of_mapping(tree: dict[str, Any], *, cased: bool) -> Requirements:
    return _all(_of_key(key, value, cased=cased) for key, value in tree.items())


def _all(parts: Iterable[Requirements]) -> Requirements:
    """What is required where all of `parts` are: where two are of one lookup, the more telling."""
    found: Requirements = {}
    for part in parts:
        for lookup, values in part.items():
            known = found.get(lookup)
            found[lookup] = values if known is None else min(known, values, key=_likelihood)
    return found


def _any(parts: Iterable[Requirements]) -> Requirements:
    """What is required where one of `parts` is, whichever."""
    first, *others = parts
    shared = [lookup for lookup in first if all(lookup in other for other in others)]
    return {lookup: first[lookup].union(*(other[lookup] for other in others)) for lookup in shared}


def _likelihood(values: frozenset[Wanted]) -> tuple[int, int]:
    return len(values), -min(len(str(value)) for value in values)


def _of_key(text: str, value: Any, *, cased: bool) -> Requirements:
    """What one key with its values requires."""
    if text == "not":
        return {}
    if text in ("any", "all"):
        parts = [_of_mapping(tree, cased=cased) for tree in value]
        return _any(parts) if text == "any" else _all(parts)
    name, *modifiers = text.split("|")
    if name == "tags" or name.startswith("ancestor.") or any(word in modifiers for word in _NOTHING_REQUIRED):
        return {}
    field = resolve(name).field
    values = [value] if isinstance(value, str) else value
    by_value = _Values(name, field, modifiers, values, cased=cased or "cased" in modifiers)
    parts = [by_value.requirements(each) for each in values]
    return _all(parts) if "all" in modifiers else _any(parts)


class _Values:
    """The values of one key, of which each requires something."""

    def __init__(
        self, name: str, field: Field, modifiers: list[str], values: list[str], *, cased: bool
    ) -> None:
        self.name = name
        self.kind = field.kind
        self.modifiers = modifiers
        self.cased = cased
        self.is_path = field.name in EXECUTABLES
        # A match that speaks of the kernel's mark sees it behind the basename.
        self.is_marked = any("(deleted" in value.casefold() for value in values)

    def requirements(self, value: str) -> Requirements:
        """What must be there for this value."""
        if self.kind is Kind.WORD:  # too few to tell rules apart
            return {}
        if self.kind is Kind.NUMBER:
            return {Lookup(How.NUMBER, self.name, cased=True): frozenset({int(value)})}
        if "re" in self.modifiers:
            return self._parts(literals_of(value))
        before = "contains" in self.modifiers or "endswith" in self.modifiers
        after = "contains" in self.modifiers or "startswith" in self.modifiers
        parts = parse_widened(value, before=before, after=after)
        literals = [part for part in parts if isinstance(part, str)]
        return {**self._parts(literals and [max(literals, key=len)]), **self._whole(parts)}

    def _parts(self, literals: Iterable[str]) -> Requirements:
        """One of these is in the value."""
        pieces = [literal[-LITERAL_LIMIT:] for literal in literals]
        if not pieces or min(map(len, pieces)) < LITERAL_MIN:
            return {}
        return self._found(How.PART, pieces)

    def _whole(self, parts: list[Part]) -> Requirements:
        """What the pattern says of the whole value, or of its basename."""
        if not parts:
            return {} if self.is_path else self._found(How.TEXT, [""])
        last = parts[-1]
        if not isinstance(last, str) or _REPLACEMENT in last:
            return {}
        if not self.is_path:
            return self._found(How.TEXT, [last]) if len(parts) == 1 else {}
        if self.is_marked or (len(parts) > 1 and "/" not in last):
            return {}
        return self._found(How.BASENAME, [last.rpartition("/")[2]])

    def _found(self, how: How, texts: list[str]) -> Requirements:
        if not self.cased and not all(text.isascii() for text in texts):
            return {}
        values = texts if self.cased else [text.casefold() for text in texts]
        return {Lookup(how, self.name, self.cased): frozenset(values)}
