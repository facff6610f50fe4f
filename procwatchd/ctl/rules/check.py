# SPDX-License-Identifier: MIT
"""`procwatchctl check`: what is wrong with a configuration, and what in it is of no use."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from procwatchd.config import Config, load_config
from procwatchd.ctl.past.facts import Facts
from procwatchd.ctl.past.truth import Tags, ask_match
from procwatchd.ctl.show.screen import clean, print_json, screen
from procwatchd.errors import ConfigError
from procwatchd.journal.build import ONLY_IN
from procwatchd.process.fields import EVENTS
from procwatchd.rules.match import Match, compile_match
from procwatchd.rules.names import name_of
from procwatchd.rules.ruleset import Rule
from procwatchd.trusted import read_file
from procwatchd.yamltree import Mapping, Mark, Problem, Sequence, mark_of, parse_yaml

_ALL = frozenset(EVENTS)
# What every event has.
_EVERYTHING = ({"pid|exists": "true"}, {"pid|gte": "0"}, {"pid|gt": "0"}, {"event|exists": "true"})


@dataclass(frozen=True, slots=True)
class Report:
    """What was found: `problems` keep the daemon from taking it, `warnings` do not."""

    files: tuple[str, ...]
    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    rules: int = 0
    sigma_rules: int = 0


def check(options: argparse.Namespace) -> int:
    """Run the command."""
    reports = [check_file(file) for file in options.files or [None]]
    if options.json:
        print_json([_as_json(report) for report in reports])
    else:
        with screen(has_pager=not options.no_pager) as console:
            for report in reports:
                for problem in report.problems:
                    console.print(clean(problem, "red", limit=1 << 16), soft_wrap=True)
                for warning in report.warnings:
                    console.print(clean(f"warning: {warning}", "yellow", limit=1 << 16), soft_wrap=True)
                console.print(clean(_sentence(report), "" if report.problems else "green"), soft_wrap=True)
    return int(any(report.problems or report.warnings for report in reports))


def check_file(file: str | None) -> Report:
    """What is to be said of a configuration, None for that in /etc."""
    try:
        config = load_config(file)
    except ConfigError as error:
        return Report((file,) if file else (), tuple(error.problems), ())
    warnings = (*config.sigma.problems, *useless(config))
    return Report(config.files, (), warnings, len(config.rules.rules), len(config.sigma.rules))


def _as_json(report: Report) -> dict[str, Any]:
    return {
        "files": report.files,
        "problems": report.problems,
        "warnings": report.warnings,
        "rules": report.rules,
        "sigma-rules": report.sigma_rules,
    }


def _sentence(report: Report) -> str:
    files = ", ".join(report.files) or "the built-in defaults"
    if report.problems:
        return f"{files}: {_count(len(report.problems), 'problem')}; the daemon would not take it"
    text = f"{files}: fine: {_count(report.rules, 'rule')}, {_count(report.sigma_rules, 'Sigma rule')}"
    return f"{text}, {_count(len(report.warnings), 'warning')}" if report.warnings else text


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def useless(config: Config) -> Iterator[str]:
    """The rules that never do anything, each with its place and the reason."""
    marks = _marks(config.files)
    before: list[Rule] = []
    for rule in config.rules.rules:
        why = _why_useless(rule, before, config)
        if why:
            yield str(Problem(marks.get(rule.name, Mark("rules")), f"rule {rule.name}", why))
        before.append(rule)


def _marks(files: tuple[str, ...]) -> dict[str, Mark]:
    """Where each rule has its name."""
    found: dict[str, Mark] = {}
    for file in files:
        source = read_file(file, [], is_trusted=True)
        tree = None if source is None else parse_yaml(source.data, file)[0]
        rules = None if tree is None else tree.entries.get("rules")
        for rule in rules.items if isinstance(rules, Sequence) else ():
            name = rule.entries.get("name") if isinstance(rule, Mapping) else None
            if name is not None:
                found[getattr(name, "text", None) or ""] = mark_of(rule, ("name",))
    return found


def _why_useless(rule: Rule, before: list[Rule], config: Config) -> str:
    """Why a rule never does anything; "" where it may."""
    events = _events(rule.match)
    captured = events & config.capture.events
    if not captured:
        words = ", ".join(sorted(events))
        return f"can never match: capture.events has no {words}"
    left = captured - _impossible(rule.match, captured)
    if not left:
        return f"can never match: it asks for {_asked_in_vain(rule.match, captured)}"
    if tags := _missing_tags(rule, before, config):
        return tags
    for earlier in before:
        if earlier.action == "tag":
            continue
        # A rule that silences leaves executables of other mount namespaces to those behind it.
        is_narrower = earlier.match.is_guarded and not rule.match.is_guarded
        if earlier.match.tree == rule.match.tree and not is_narrower:
            return f"is never tried where it matches: rule {earlier.name!r}, before it, decides the same"
        if _is_everything(earlier.match):
            left -= _events(earlier.match)
            if not left:
                return f"is never tried: rule {earlier.name!r}, before it, decides all that it is for"
    return ""


def _events(match: Match) -> frozenset[str]:
    return _ALL if match.events is None else match.events


def _tests(match: Match) -> Iterator[tuple[str, str]]:
    """The fields that must be there for it to hold: the key as written, and the field."""
    for key, value in _tree(match).items():
        name, _, modifiers = key.partition("|")
        if modifiers != "exists" or value == "true":
            yield key, name_of(name)


def _impossible(match: Match, events: frozenset[str]) -> frozenset[str]:
    """Events that never have what it asks for."""
    asked = [_events_with(name) for _, name in _tests(match)]
    return frozenset(event for event in events if any(event not in those for those in asked))


def _events_with(name: str) -> frozenset[str]:
    only = frozenset(event for event, names in ONLY_IN.items() if name in names)
    return only or _ALL


def _asked_in_vain(match: Match, events: frozenset[str]) -> str:
    key = next(key for key, name in _tests(match) if events - _events_with(name))
    return f"{key!r}, which {', '.join(sorted(events))} events do not have"


def _missing_tags(rule: Rule, before: list[Rule], config: Config) -> str:
    """That no rule gives a tag that it asks for; "" where one does."""
    given = config.rules.inherited.union(*(earlier.tags for earlier in before))
    for key, value in _tree(rule.match).items():
        if key.partition("|")[0] == "tags" and key != "tags|exists":
            ask = ask_match(compile_match({key: value}))
            if not ask(Facts({}), Tags(given)).truth:
                return f"can never match: no rule before it gives the tag that {key!r} asks for"
    return ""


def _tree(match: Match) -> dict[str, Any]:
    """The keys that must all hold."""
    return match.tree if isinstance(match.tree, dict) else {}


def _is_everything(match: Match) -> bool:
    """Whether all of its events match."""
    rest = {key: value for key, value in _tree(match).items() if key != "event"}
    return not rest or rest in _EVERYTHING
