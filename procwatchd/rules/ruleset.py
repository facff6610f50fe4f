# SPDX-License-Identifier: MIT
"""The rules in order: which of them decides, and what that comes to."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from procwatchd.process.fields import EVENTS
from procwatchd.process.model import Record
from procwatchd.rules.detection import Detection
from procwatchd.rules.index import Index
from procwatchd.rules.limit import Suppression
from procwatchd.rules.match import Match
from procwatchd.rules.template import Template

# How many decisions are kept for processes that have tags.
TAGGED_LIMIT = 512

Action = Literal["log", "drop", "count", "tag"]
Verdict = Literal["log", "drop", "count"]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. `priority` and `message` are None where it leaves them to others; `fields` have no prefix.

    `suppression` is there where it counts or has a limit. `inherit`: its tags stay with the process, and go to those
    that are forked from it.
    """

    name: str
    match: Match
    action: Action = "log"
    priority: int | None = None
    tags: tuple[str, ...] = ()
    message: Template | None = None
    fields: tuple[tuple[str, str], ...] = ()
    suppression: Suppression | None = None
    inherit: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of a record.

    `rule` is the name of the rule that decided, None where none did. `tags` of all rules that matched, in
    order. `fields` to add, by names without prefix. `message` is None for the event's usual one. `suppression` is what
    the rule says on silence. `inherited` are the tags that are to stay with the process. `detections` are of Sigma
    rules, the most severe first; what has one is logged, and never limited.
    """

    action: Verdict
    rule: str | None
    priority: int
    tags: tuple[str, ...] = ()
    message: Template | None = None
    fields: tuple[tuple[str, str], ...] = ()
    suppression: Suppression | None = None
    inherited: tuple[str, ...] = ()
    detections: tuple[Detection, ...] = ()


# Test, decision if nothing matched before it (None: it only tags), rule.
_Step = tuple[Callable[[Record, Collection[str]], bool], Decision | None, Rule]


@dataclass(slots=True)
class _Sum:
    """What the matching rules came to so far; the latest word on something holds."""

    priority: int
    message: Template | None = None
    tags: dict[str, None] = field(default_factory=dict)  # a set that keeps the order
    fields: dict[str, str] = field(default_factory=dict)
    inherited: dict[str, None] = field(default_factory=dict)

    def add(self, rule: Rule) -> None:
        """Take in what a matching rule says."""
        if rule.priority is not None:
            self.priority = rule.priority
        if rule.message is not None:
            self.message = rule.message
        self.tags.update(dict.fromkeys(rule.tags))
        self.fields.update(rule.fields)
        if rule.inherit:
            self.inherited.update(dict.fromkeys(rule.tags))

    def decision(self, action: Verdict, rule: Rule | None) -> Decision:
        """The sum as a decision, by this rule or none."""
        return Decision(
            action,
            None if rule is None else rule.name,
            self.priority,
            tuple(self.tags),
            self.message,
            tuple(self.fields.items()),
            None if rule is None else rule.suppression,
            tuple(self.inherited),
        )


class RuleSet:
    """Rules in the order they are tried, and what happens to what none of them decides.

    `unmatched` and `priority` are for that, `priority` also for rules that give none. `by_event` holds for
    each event the rules that can match it. `needs` are the names in FIELDS that rules and messages look at, `inherited`
    the tags that processes may have from others.
    """

    def __init__(
        self, rules: Iterable[Rule], *, unmatched: Literal["log", "drop"] = "log", priority: int = 6
    ) -> None:
        self.rules = tuple(rules)
        self.unmatched = unmatched
        self.priority = priority
        self.by_event: dict[str, tuple[Rule, ...]] = {
            event: tuple(r for r in self.rules if r.match.events is None or event in r.match.events)
            for event in EVENTS
        }
        self.needs = frozenset().union(*map(_needs, self.rules))
        self.inherited = frozenset(tag for rule in self.rules if rule.inherit for tag in rule.tags)
        self._unmatched = Decision(unmatched, None, priority)
        self._tagged: dict[tuple[tuple[str, ...], str | None], Decision] = {}
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
        tags = record.process.tags
        for test, decision, _ in steps:
            if test(record, tags):
                if decision is None:
                    return self._decide_tagged(record, steps)
                return self._with(tags, decision) if tags else decision
        return self._with(tags, self._unmatched) if tags else self._unmatched

    def _with(self, tags: tuple[str, ...], decision: Decision) -> Decision:
        """A decision where the process has tags already; kept, as most of its events will have the same."""
        key = (tags, decision.rule)
        found = self._tagged.get(key)
        if found is None:
            if len(self._tagged) >= TAGGED_LIMIT:
                self._tagged.clear()
            found = replace(decision, tags=tuple(dict.fromkeys((*tags, *decision.tags))))
            self._tagged[key] = found
        return found

    def _decide_tagged(self, record: Record, steps: Sequence[_Step]) -> Decision:
        """The same where a rule that tags matched: from the start, adding up."""
        so_far = _Sum(self.priority, tags=dict.fromkeys(record.process.tags))
        for test, _, rule in steps:
            if test(record, so_far.tags):
                so_far.add(rule)
                if rule.action != "tag":
                    return so_far.decision(rule.action, rule)
        return so_far.decision(self.unmatched, None)

    def _alone(self, rule: Rule) -> Decision | None:
        if rule.action == "tag":
            return None
        alone = _Sum(self.priority)
        alone.add(rule)
        return alone.decision(rule.action, rule)


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
    by = () if rule.suppression is None else [one.name for one in rule.suppression.by]
    return rule.match.needs.union(name.removeprefix("PARENT.") for name in (*names, *by))
