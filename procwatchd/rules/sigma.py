# SPDX-License-Identifier: MIT
"""Sigma rules: which of them match an exec, whatever the other rules say of it.

Facts (Sigma's specification 2, as pySigma 2 reads it):
- A rule says with `logsource` what it is for. Ours are those for Linux's `process_creation`, of no service.
- Of a list of conditions each detects on its own.
- Who writes no level or status leaves that open.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from procwatchd.process.model import Record
from procwatchd.rules.detection import LEVELS, Detection
from procwatchd.rules.index import Index
from procwatchd.rules.match import Match, MatchError, compile_match
from procwatchd.rules.ruleset import Decision
from procwatchd.rules.sigma_condition import ConditionError, Selections, parse_condition
from procwatchd.rules.sigma_selection import SelectionError, selection

# Limits.
CONDITIONS_LIMIT = 100
ID_LIMIT, TEXT_LIMIT = 64, 1024  # characters; of the title, the tags and the author

STATUSES = ("stable", "test", "experimental", "deprecated", "unsupported")

Path = tuple[str | int, ...]
Tree = dict[str, Any]


class SigmaError(ValueError):
    """What is wrong with a rule: the path to it, and what it is."""

    def __init__(self, path: Path, text: str) -> None:
        super().__init__(text)
        self.path = path


@dataclass(frozen=True, slots=True)
class SigmaRule:
    """One rule, and the file it is from. `status` is empty where it has none."""

    detection: Detection
    status: str
    match: Match
    file: str


@dataclass(frozen=True, slots=True)
class Exclusion:
    """Where `match` holds, the rule of that id detects nothing."""

    rule_id: str
    match: Match


def is_for_processes(raw: Mapping[str, Any]) -> bool:
    """Whether what a file says is a rule for what processes do on Linux."""
    source = raw.get("logsource")
    if not isinstance(source, dict) or source.get("service") is not None:
        return False
    return source.get("product") == "linux" and source.get("category") == "process_creation"


def parse_rule(raw: Mapping[str, Any], file: str) -> SigmaRule:
    """The rule that a file's contents mean. Raises SigmaError."""
    detection = Detection(
        _text(raw, "id", ID_LIMIT),
        _text(raw, "title", TEXT_LIMIT),
        _word(raw, "level", LEVELS),
        _tags(raw),
        _text(raw, "author", TEXT_LIMIT),
    )
    if not detection.title:
        raise SigmaError((), "has no title")
    return SigmaRule(detection, _word(raw, "status", STATUSES), _match(raw.get("detection")), file)


def _text(raw: Mapping[str, Any], key: str, limit: int) -> str:
    value = raw.get(key)
    if value is None:
        return ""
    if not isinstance(value, str | int | float) or len(str(value)) > limit:
        raise SigmaError((key,), f"must be a text of at most {limit} characters")
    return " ".join(str(value).split())


def _word(raw: Mapping[str, Any], key: str, known: Collection[str]) -> str:
    word = _text(raw, key, TEXT_LIMIT).lower()
    if word and word not in known:
        raise SigmaError((key,), f"{word[:64]!r} is none of: {', '.join(known)}")
    return word


def _tags(raw: Mapping[str, Any]) -> str:
    tags = raw.get("tags") or []
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise SigmaError(("tags",), "must be a list of texts")
    text = " ".join("".join(tag.split()) for tag in tags)
    if len(text) > TEXT_LIMIT:
        raise SigmaError(("tags",), f"more than {TEXT_LIMIT} characters")
    return text


def _match(raw: Any) -> Match:
    """What the section `detection` means."""
    if not isinstance(raw, dict):
        raise SigmaError(("detection",), "must be a mapping of selections and a condition")
    try:
        selections = {
            name: selection(value, ("detection", name)) for name, value in raw.items() if name != "condition"
        }
    except SelectionError as error:
        raise SigmaError(error.path, str(error)) from None
    tree = _condition(raw.get("condition"), selections)
    try:
        return compile_match(tree, cased=False)
    except MatchError as error:
        raise SigmaError(("detection",), error.problems[0][1]) from None


def _condition(raw: Any, selections: Mapping[str, Tree]) -> Tree:
    texts = raw if isinstance(raw, list) else [raw]
    path = ("detection", "condition")
    if not texts or len(texts) > CONDITIONS_LIMIT or not all(isinstance(text, str) for text in texts):
        raise SigmaError(path, f"must be a text, or a list of at most {CONDITIONS_LIMIT}")
    available = Selections(selections)
    try:
        trees = [parse_condition(text, available) for text in texts]
    except ConditionError as error:
        raise SigmaError(path, str(error)) from None
    return trees[0] if len(trees) == 1 else {"any": trees}


_Test = Callable[[Record, Collection[str]], bool]
# Test, what to say, where not to.
_Step = tuple[_Test, Detection, tuple[Match, ...]]


class Sigma:
    """Rules that are looked up at every exec.

    `problems` say what could not be loaded, one line each; `others` is how many files are for something else, or
    below what was asked for. `needs` are the names in FIELDS that rules and exclusions look at.
    """

    def __init__(
        self,
        rules: Iterable[SigmaRule] = (),
        exclusions: Iterable[Exclusion] = (),
        problems: Iterable[str] = (),
        others: int = 0,
    ) -> None:
        self.rules = tuple(rules)
        self.problems = tuple(problems)
        self.others = others
        self.exclusions = tuple(exclusions)
        matches = [rule.match for rule in self.rules] + [each.match for each in self.exclusions]
        self.needs = frozenset[str]().union(*(match.needs for match in matches))
        self._index = Index((_step(rule, self.exclusions), rule.match.requirements) for rule in self.rules)

    def judge(self, record: Record, decision: Decision) -> Decision:
        """The decision on an exec, which is to log it where a rule matches."""
        steps = self._index.tried(record)
        found = [step for step in steps if step[0](record, ())]
        if not found:
            return decision
        tags = decision.tags
        detections = [
            detection
            for _, detection, exclusions in found
            if not any(exclusion.holds(record, tags) for exclusion in exclusions)
        ]
        return _detected(decision, detections) if detections else decision


def _step(rule: SigmaRule, exclusions: Iterable[Exclusion]) -> _Step:
    rule_id = rule.detection.rule_id
    return rule.match.test, rule.detection, tuple(e.match for e in exclusions if e.rule_id == rule_id)


def _detected(decision: Decision, detections: list[Detection]) -> Decision:
    detections.sort(key=lambda detection: -detection.rank)
    priority = min(decision.priority, detections[0].priority)
    return dataclasses.replace(decision, action="log", priority=priority, detections=tuple(detections))
