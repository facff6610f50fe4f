# SPDX-License-Identifier: MIT
"""Matches on what the past holds: true, false, or unknown, and why.

How values compare is for `rules/match.py` alone: each key is compiled by it, on its own. Here is what lies between the
keys, in Kleene's logic: what is false whatever the unknown was is false, and so with true.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from procwatchd.ctl.past.facts import Facts
from procwatchd.process.model import Record
from procwatchd.rules.match import Match, Tree, compile_match
from procwatchd.rules.names import Scope, Target, resolve

Truth = bool | None


@dataclass(frozen=True, slots=True)
class Tags:
    """The tags that earlier rules gave; and those that they may have given."""

    sure: Collection[str] = ()
    maybe: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class Reason:
    """A condition and what it came to: `value` is what it looked at, `why` says why that is not known."""

    condition: str
    value: object
    truth: Truth
    why: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether something holds, and the conditions that made it so."""

    truth: Truth
    reasons: tuple[Reason, ...] = ()


Ask = Callable[[Facts, Tags], Verdict]

# The parent of who has none.
_NOBODY = Facts({}, trusted={"EXE": False})
_ELSEWHERE = "is no path of the host's own mount namespace"
_PERHAPS_ELSEWHERE = "is perhaps no path of the host's own mount namespace"
_SOMEBODY = Reason("ancestors", None, None, "were not recorded")


def ask_match(match: Match, *, cased: bool = True) -> Ask:
    """What asks whether `match` held; a test of an executable counts as in the rule it was compiled for."""
    return _Asker(silences=match.is_guarded, cased=cased).mapping(match.tree)


def all_of(asks: Sequence[Ask]) -> Ask:
    """All of them."""

    def ask(facts: Facts, tags: Tags) -> Verdict:
        reasons: list[Reason] = []
        unknown: list[Reason] = []
        is_known = True
        for each in asks:
            found = each(facts, tags)
            if found.truth is False:
                return found
            (reasons if found.truth else unknown).extend(found.reasons)
            is_known &= found.truth is not None
        return Verdict(True, tuple(reasons)) if is_known else Verdict(None, tuple(unknown))

    return ask


def negated(ask: Ask) -> Ask:
    """Not this."""

    def answer(facts: Facts, tags: Tags) -> Verdict:
        found = ask(facts, tags)
        return found if found.truth is None else Verdict(not found.truth, found.reasons)

    return answer


def any_of(asks: Iterable[Ask]) -> Ask:
    """One of them: not all of them are not."""
    return negated(all_of([negated(ask) for ask in asks]))


@dataclass(frozen=True, slots=True)
class _Asker:
    """Makes a tree that compiled well into what asks."""

    silences: bool
    cased: bool
    is_negative: bool = False
    place: str = ""

    def mapping(self, tree: Any) -> Ask:
        """All keys, those of ancestors for one and the same."""
        asks: list[Ask] = []
        of_ancestor: list[Ask] = []
        for key, value in tree.items():
            if key in ("any", "all", "not"):
                asks.append(self.group(key, value))
            elif key.startswith("ancestor."):
                of_ancestor.append(self.leaf(key, key.removeprefix("ancestor."), value))
            elif key.startswith("parent."):
                asks.append(_of_parent(self.leaf(key, key.removeprefix("parent."), value)))
            else:
                asks.append(self.leaf(key, key, value))
        if of_ancestor:
            asks.append(_of_some_ancestor(all_of(of_ancestor)))
        return all_of(asks)

    def group(self, word: str, value: Any) -> Ask:
        """`any`, `all` or `not`."""
        inner = dataclasses.replace(
            self, is_negative=self.is_negative ^ (word == "not"), place=f"{self.place}{word}."
        )
        asks = [inner.mapping(tree) for tree in (value if isinstance(value, list) else [value])]
        if word == "all":
            return all_of(asks)
        return any_of(asks) if word == "any" else negated(any_of(asks))

    def leaf(self, shown: str, key: str, value: Tree) -> Ask:
        """One key, named as it was written, on whoever is looked at."""
        match = compile_match({key: value}, cased=self.cased, find=_of_facts)
        text = f"{self.place}{shown}: {', '.join(value) if isinstance(value, list) else value}"
        name = key.partition("|")[0]
        if name == "tags":
            return lambda _facts, tags: _on_tags(text, match, tags)
        found = resolve(name)
        is_guarded = self.silences and found.trusted is not None and not key.endswith("|exists")
        return _Leaf(text, match, found.field.name, is_guarded, self.is_negative).ask


def _of_facts(key: str) -> Target:
    """The field that `key` names, of Facts."""
    name = resolve(key).field.name
    return Target(resolve(key).field, Scope.RECORD, lambda facts: facts.values.get(name))


def _holds(match: Match, facts: Facts, tags: Collection[str]) -> bool:
    # Facts have what a record is asked for here: the event. All else is asked by _of_facts.
    return match.holds(cast(Record, facts), tags)


@dataclass(frozen=True, slots=True)
class _Leaf:
    """A key with its values."""

    text: str
    match: Match
    name: str
    is_guarded: bool
    is_negative: bool

    def ask(self, facts: Facts, _tags: Tags) -> Verdict:
        """Whether it holds."""
        value = facts.values.get(self.name)
        if self.name in facts.hidden:
            return self.verdict(None, None, facts.hidden[self.name])
        is_so = _holds(self.match, facts, ())
        if not self.is_guarded or is_so is self.is_negative:
            # As the guard decides for what is untrusted, whether or not it is.
            return self.verdict(is_so, value)
        is_trusted = facts.trusted.get(self.name)
        if is_trusted is None:
            return self.verdict(None, value, _PERHAPS_ELSEWHERE)
        return self.verdict(
            is_so if is_trusted else self.is_negative,
            value,
            "" if is_trusted else _ELSEWHERE,
        )

    def verdict(self, truth: Truth, value: object, why: str = "") -> Verdict:
        """What it came to, with this as the reason."""
        return Verdict(truth, (Reason(self.text, value, truth, why),))


def _on_tags(text: str, match: Match, tags: Tags) -> Verdict:
    """A test of tags goes one way with their number: where neither all nor the fewest change it, it is known."""
    fewest = _holds(match, _NOBODY, tuple(tags.sure))
    most = _holds(match, _NOBODY, (*tags.sure, *tags.maybe))
    truth = fewest if fewest is most else None
    why = "" if truth is not None else "depends on events that were not recorded, or on rules above"
    return Verdict(truth, (Reason(text, " ".join(tags.sure), truth, why),))


def _of_parent(ask: Ask) -> Ask:
    def answer(facts: Facts, tags: Tags) -> Verdict:
        if not facts.parents and not facts.has_all_parents:
            return Verdict(None, (_SOMEBODY,))
        return ask(facts.parents[0] if facts.parents else _NOBODY, tags)

    return answer


def _of_some_ancestor(ask: Ask) -> Ask:
    def answer(facts: Facts, tags: Tags) -> Verdict:
        found = [ask(parent, tags) for parent in facts.parents]
        held = next((one for one in found if one.truth), None)
        if held is not None:
            return held
        unknown = [reason for one in found if one.truth is None for reason in one.reasons]
        if not facts.has_all_parents:
            unknown.append(_SOMEBODY)
        if unknown:
            return Verdict(None, tuple(unknown))
        refused = [reason for one in found for reason in one.reasons]
        return Verdict(False, tuple(refused) or (Reason("ancestors", None, False, "has none"),))

    return answer
