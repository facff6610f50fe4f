# SPDX-License-Identifier: MIT
"""What rules would have done: the way of `RuleSet.decide` and `Sigma.judge`, where not all is known."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from procwatchd.config import Config
from procwatchd.ctl.past.facts import Facts
from procwatchd.ctl.past.truth import Ask, Tags, Truth, Verdict, all_of, any_of, ask_match, negated
from procwatchd.process.fields import Value
from procwatchd.rules.ruleset import Rule
from procwatchd.rules.sigma import Sigma, SigmaRule

UNDECIDABLE = "undecidable"

_Tags: TypeAlias = dict[tuple[tuple[object, ...], Value], dict[str, int]]


@dataclass(frozen=True, slots=True)
class Step:
    """One rule that was tried, and what its match came to."""

    rule: Rule
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Detection:
    """The same for a Sigma rule."""

    rule: SigmaRule
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Outcome:
    """What would have become of an event: `action` is log, drop, count, or undecidable.

    `rule` is the one that decided, or of which it cannot be said whether it would have; None where none did. `steps`
    are all that were tried, in order.
    """

    action: str
    rule: Rule | None
    steps: tuple[Step, ...]
    detections: tuple[Detection, ...]

    @property
    def is_detected(self) -> Truth:
        """Whether a Sigma rule would have matched."""
        truths = [detection.verdict.truth for detection in self.detections]
        return True if True in truths else None if None in truths else False


class Judge:
    """Judges one event after another, in the order in which they were."""

    def __init__(self, config: Config) -> None:
        self.rules = config.rules
        self.sigma = config.sigma
        self._asks = {rule.name: ask_match(rule.match) for rule in self.rules.rules}
        self._sigma = [(rule, _ask_sigma(rule, self.sigma)) for rule in self.sigma.rules]
        self._memory = _Memory(self.rules.inherited)

    def judge(self, facts: Facts) -> Outcome:
        """What would become of this one."""
        tags = self._memory.tags(facts)
        sure, maybe = dict.fromkeys(tags.sure), set(tags.maybe)
        steps, action, decider = self._try(facts, sure, maybe)
        detections: tuple[Detection, ...] = ()
        if facts.event == "exec" and not facts.is_living:
            last = Tags(sure, maybe)
            detections = tuple(Detection(rule, ask(facts, last)) for rule, ask in self._sigma)
        outcome = Outcome(action, decider, tuple(steps), detections)
        is_detected = outcome.is_detected
        if is_detected is False or action == "log":
            return outcome
        return Outcome("log" if is_detected else UNDECIDABLE, decider, outcome.steps, detections)

    def _try(
        self, facts: Facts, sure: dict[str, None], maybe: set[str]
    ) -> tuple[list[Step], str, Rule | None]:
        """Try the rules up to the one that decides, or may; tags are added to what is given."""
        steps: list[Step] = []
        for rule in self.rules.by_event.get(facts.event, ()):
            verdict = self._asks[rule.name](facts, Tags(sure, maybe))
            steps.append(Step(rule, verdict))
            if verdict.truth is False:
                continue
            if rule.action != "tag":
                return steps, rule.action if verdict.truth else UNDECIDABLE, rule
            if verdict.truth:
                sure.update(dict.fromkeys(rule.tags))
                self._memory.note(facts, rule)
            else:
                maybe.update(rule.tags)
                self._memory.doubt(facts, rule)
        return steps, self.rules.unmatched, None


def _ask_sigma(rule: SigmaRule, sigma: Sigma) -> Ask:
    """Whether a Sigma rule matches, and nothing excludes it."""
    excluding = [each for each in sigma.exclusions if each.rule_id == rule.detection.rule_id]
    own = ask_match(rule.match, cased=False)
    if not excluding:
        return own
    return all_of([own, negated(any_of([ask_match(each.match) for each in excluding]))])


class _Memory:
    """The tags that stay with processes, by rules with `inherit`.

    An entry does not say which of them a process has from others; a recording has all events, and when who was forked.
    PROCESS_ID names a process of one boot of one machine, and a daemon that was started anew may know no tags any more.
    """

    def __init__(self, inherited: Iterable[str]) -> None:
        self._inherited = frozenset(inherited)
        # Of each process, by which tag, and since when.
        self._sure: _Tags = {}
        self._maybe: _Tags = {}

    def tags(self, facts: Facts) -> Tags:
        """What a process has before the rules are tried."""
        if not self._inherited:
            return Tags()
        sure = _at(self._sure, facts)
        maybe = _at(self._maybe, facts).keys() if facts.is_whole else self._inherited
        return Tags(tuple(sure), tuple(tag for tag in maybe if tag not in sure))

    def note(self, facts: Facts, rule: Rule) -> None:
        """The rule gave its tags."""
        self._add(self._sure, facts, rule)

    def doubt(self, facts: Facts, rule: Rule) -> None:
        """Perhaps it did."""
        self._add(self._maybe, facts, rule)

    def _add(self, to: _Tags, facts: Facts, rule: Rule) -> None:
        if not rule.inherit or facts.process_id is None:
            return
        when = facts.values.get("MONOTONIC_USEC")
        of_process = to.setdefault((facts.daemon, facts.process_id), {})
        for tag in rule.tags:
            of_process.setdefault(tag, when if isinstance(when, int) else 0)


def _at(known: _Tags, facts: Facts) -> dict[str, int]:
    """The tags of a process: its own, and those that its parent had when it was forked, if that is known."""
    if facts.process_id is None:
        return {}
    tags: dict[str, int] = {}
    for one in reversed((facts, *(facts.parents if facts.is_whole else ()))):
        forked = one.forked_usec
        tags = {tag: since for tag, since in tags.items() if forked is None or since <= forked}
        tags |= {
            tag: since
            for tag, since in known.get((one.daemon, one.process_id), {}).items()
            if tag not in tags
        }
    return tags
