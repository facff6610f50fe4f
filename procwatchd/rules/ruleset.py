# SPDX-License-Identifier: MIT
"""The rules in order: which of them decides, and what that comes to."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from procwatchd.process.fields import EVENTS
from procwatchd.process.model import Record
from procwatchd.rules.index import Index
from procwatchd.rules.match import Match
from procwatchd.rules.template import Template

Action = Literal["log", "drop", "tag"]
Verdict = Literal["log", "drop"]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. `priority` and `message` are None where it leaves them to others; `fields` have no prefix."""

    name: str
    match: Match
    action: Action = "log"
    priority: int | None = None
    tags: tuple[str, ...] = ()
    message: Template | None = None
    fields: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of a record.

    `rule` is the name of the rule that decided, None where none did. `tags` of all rules that matched, in
    order. `fields` to add, by names without prefix. `message` is None for the event's usual one.
    """

    action: Verdict
    rule: str | None
    priority: int
    tags: tuple[str, ...] = ()
    message: Template | None = None
    fields: tuple[tuple[str, str], ...] = ()


# Test, decision if nothing matched before it (None: it only tags), rule.
_Step = tuple[Callable[[Record, Collection[str]], bool], Decision | None, Rule]


@dataclass(slots=True)
class _Sum:
    """What the matching rules came to so far; the latest word on something holds."""

    priority: int
    message: Template | None = None
    tags: dict[str, None] = field(default_factory=dict)  # a set that keeps the order
    fields: dict[str, str] = field(default_factory=dict)

    def add(self, rule: Rule) -> None:
        """Take in what a matching rule says."""
        if rule.priority is not None:
            self.priority = rule.priority
        if rule.message is not None:
            self.message = rule.message
        self.tags.update(dict.fromkeys(rule.tags))
        self.fields.update(rule.fields)

    def decision(self, action: Verdict, name: str | None) -> Decision:
        """The sum as a decision."""
        return Decision(
            action, name, self.priority, tuple(self.tags), self.message, tuple(self.fields.items())
        )


class RuleSet:
    """Rules in the order they are tried, and what happens to what none of them decides.

    `unmatched` and `priority` are for that, `priority` also for rules that give none. `by_event` holds for
    each event the rules that can match it. `needs` are the names in FIELDS that rules and messages look at.
    """

    def __init__(self, rules: Iterable[Rule], *, unmatched: Verdict = "log", priority: int = 6) -> None:
        self.rules = tuple(rules)
        self.unmatched = unmatched
        self.priority = priority
        self.by_event: dict[str, tuple[Rule, ...]] = {
            event: tuple(r for r in self.rules if r.match.events is None or event in r.match.events)
            for event in EVENTS
        }
        self.needs = frozenset().union(*map(_needs, self.rules))
        self._unmatched = Decision(unmatched, None, priority)
        # A decision that nothing before it can change is made once, here.
        prebuilt = {rule.name: self._alone(rule) for rule in self.rules}
        self._steps: dict[str, tuple[_Step, ...]] = {
            event: tuple((rule.match.test, prebuilt[rule.name], rule) for rule in rules)
            for event, rules in self.by_event.items()
        }
        self._indexes = _indexes(self._steps)

    def decide(self, record: Record) -> Decision:
        """What becomes of `record`. Most often no allocation: the answer is the same object each time."""
        event = record.event
        index = self._indexes.get(event)
        steps = self._steps.get(event, ()) if index is None else index.tried(record)
        for test, decision, _ in steps:
            if test(record, ()):
                return decision if decision is not None else self._decide_tagged(record, steps)
        return self._unmatched

    def _decide_tagged(self, record: Record, steps: Sequence[_Step]) -> Decision:
        """The same where a rule that tags matched: from the start, adding up."""
        so_far = _Sum(self.priority)
        for test, _, rule in steps:
            if test(record, so_far.tags):
                so_far.add(rule)
                if rule.action != "tag":
                    return so_far.decision(rule.action, rule.name)
        return so_far.decision(self.unmatched, None)

    def _alone(self, rule: Rule) -> Decision | None:
        if rule.action == "tag":
            return None
        alone = _Sum(self.priority)
        alone.add(rule)
        return alone.decision(rule.action, rule.name)


def _indexes(steps: dict[str, tuple[_Step, ...]]) -> dict[str, Index[_Step]]:
    """An index for each event with rules enough, one for all that have the same rules: it takes memory."""
    by_names: dict[tuple[str, ...], Index[_Step]] = {}
    found: dict[str, Index[_Step]] = {}
    for event, of_event in steps.items():
        names = tuple(rule.name for _, _, rule in of_event)
        if names not in by_names:
            by_names[names] = Index((step, step[2].match.requirements) for step in of_event)
        if not by_names[names].is_plain:
            found[event] = by_names[names]
    return found


def _needs(rule: Rule) -> frozenset[str]:
    names = () if rule.message is None else rule.message.names
    return rule.match.needs.union(name.removeprefix("PARENT.") for name in names)
