# SPDX-License-Identifier: MIT
"""Conditions of Sigma rules, as matches.

Facts (Sigma's specification 2, as pySigma 2 reads it):
- `not` binds closest, then `and`, then `or`; words are lower case. `1 of` and `any of` are an `or`, `all of` an `and`.
- `them` are all selections, `x*` those whose names match; neither one that begins with `_`, unless the pattern does.
- `| count() > 5` and its kind are of an older specification, and need more than one event.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# Limits.
CONDITION_LIMIT = 4096  # characters
NESTING_LIMIT = 16  # of parentheses and `not`
VALUES_LIMIT = 10_000  # of all selections, each as often as a rule's conditions name it

_TOKEN = re.compile(r"\s*(?:([()])|([A-Za-z0-9_*-]+)|(\S))")
_QUANTIFIERS = {"1": "any", "any": "any", "all": "all"}
_OPERATORS = frozenset({"and", "or", "not"})

Tree = dict[str, Any]


class ConditionError(ValueError):
    """A condition that cannot be read, or names what is not there; the text is the reason."""


class Selections:
    """A rule's matches by their names, given to its conditions until that comes to too much."""

    def __init__(self, trees: Mapping[str, Tree]) -> None:
        self.names = tuple(trees)
        self._trees = {name: (tree, _count(tree)) for name, tree in trees.items()}
        self._left = VALUES_LIMIT

    def take(self, name: str) -> Tree:
        """One of them. Raises ConditionError."""
        if name not in self._trees:
            raise ConditionError(f"there is no selection {name!r}")
        tree, count = self._trees[name]
        self._left -= count
        if self._left < 0:
            raise ConditionError(f"comes to more than {VALUES_LIMIT} values")
        return tree


def _count(tree: Any) -> int:
    """How many values a match compares with."""
    if isinstance(tree, dict):
        return sum(map(_count, tree.values()))
    return sum(map(_count, tree)) if isinstance(tree, list) else 1


def parse_condition(text: str, selections: Selections) -> Tree:
    """The match that a condition on matches comes to. Raises ConditionError."""
    if len(text) > CONDITION_LIMIT:
        raise ConditionError(f"longer than {CONDITION_LIMIT} characters")
    parser = _Parser(_tokens(text), selections)
    tree = parser.alternatives(0)
    if parser.next is not None:
        raise ConditionError(f"{parser.next!r} is out of place")
    return tree


def _tokens(text: str) -> list[str]:
    found: list[str] = []
    for bracket, word, other in _TOKEN.findall(text.rstrip()):
        if other == "|":
            raise ConditionError("what follows a '|' takes more than one event, which is not supported")
        if other:
            raise ConditionError(f"{other!r} is no part of a condition")
        found.append(bracket or word)
    return found


class _Parser:
    """Takes one token after the other; each method gives the match of what it took."""

    def __init__(self, tokens: list[str], selections: Selections) -> None:
        self._left = tokens[::-1]
        self._selections = selections

    @property
    def next(self) -> str | None:
        """The token to come, None at the end."""
        return self._left[-1] if self._left else None

    def alternatives(self, depth: int) -> Tree:
        """What `or` joins."""
        found = [self._conjunction(depth)]
        while self._took("or"):
            found.append(self._conjunction(depth))
        return found[0] if len(found) == 1 else {"any": found}

    def _conjunction(self, depth: int) -> Tree:
        found = [self._term(depth)]
        while self._took("and"):
            found.append(self._term(depth))
        return found[0] if len(found) == 1 else {"all": found}

    def _term(self, depth: int) -> Tree:
        if depth > NESTING_LIMIT:
            raise ConditionError(f"more than {NESTING_LIMIT} of parentheses and 'not' in one another")
        if self._took("not"):
            return {"not": self._term(depth + 1)}
        if self._took("("):
            tree = self.alternatives(depth + 1)
            if not self._took(")"):
                raise ConditionError("a '(' is not closed")
            return tree
        return self._selection()

    def _selection(self) -> Tree:
        word = self._word()
        if word in _QUANTIFIERS and self._took("of"):
            return self._quantified(_QUANTIFIERS[word], self._word())
        return self._selections.take(word)

    def _quantified(self, group: str, pattern: str) -> Tree:
        """One or all of the selections that a pattern names."""
        wanted = re.compile(".*" if pattern == "them" else pattern.replace("*", ".*"))
        found = [
            self._selections.take(name)
            for name in self._selections.names
            if wanted.fullmatch(name) and (pattern.startswith("_") or not name.startswith("_"))
        ]
        if not found:
            raise ConditionError(f"there is no selection like {pattern!r}")
        return found[0] if len(found) == 1 else {group: found}

    def _word(self) -> str:
        word = self.next
        if word is None:
            raise ConditionError("ends where a selection is expected")
        if word in "()" or word in _OPERATORS:
            raise ConditionError(f"{word!r} stands where a selection is expected")
        self._left.pop()
        return word

    def _took(self, token: str) -> bool:
        """Whether that came next; then it is taken."""
        if self.next != token:
            return False
        self._left.pop()
        return True
