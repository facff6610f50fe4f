# SPDX-License-Identifier: MIT
"""`procwatchctl explain`: which rules were tried on an event, and which condition made each hold or not."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any

from rich.console import Console

from procwatchd.config import load_config
from procwatchd.ctl.past.events import Past, find_event
from procwatchd.ctl.past.facts import Facts
from procwatchd.ctl.past.truth import Reason, Truth, Verdict
from procwatchd.ctl.rules.judge import Judge, Outcome
from procwatchd.ctl.show.screen import clean, print_json, print_problems, print_skipped, screen

_WORDS = {True: ("matches", "green"), False: ("no", ""), None: ("unknown", "yellow")}


def explain(options: argparse.Namespace) -> int:
    """Run the command."""
    judge = Judge(load_config(options.config))
    past = Past(options)
    facts, outcome = _last(judge, find_event(options, past))
    if options.json:
        print_json({**_as_json(facts, outcome), "sigma_problems": judge.sigma.problems})
        return 0
    with screen(has_pager=not options.no_pager) as console:
        _print_event(console, facts)
        for step in outcome.steps:
            note = ", decides" if step.rule is outcome.rule and step.verdict.truth else ""
            _print_verdict(console, f"{step.rule.name} ({step.rule.action}{note})", step.verdict)
        _print_sigma(console, outcome)
        _print_outcome(console, outcome)
        print_problems(console, judge.sigma.problems)
        print_skipped(console, past.skipped)
    return 0


def _last(judge: Judge, events: Iterable[Facts]) -> tuple[Facts, Outcome]:
    """The last event and what becomes of it, after all before: tags go from one to the other."""
    found = None
    for facts in events:
        found = facts, judge.judge(facts)
    assert found is not None  # find_event raises where there is none
    return found


def _print_event(console: Console, facts: Facts) -> None:
    pid = facts.values.get("PID")
    console.print(
        clean(f"{facts.event} of process {_shown(pid)}: {facts.command}", "bold", limit=1000), soft_wrap=True
    )


def _print_verdict(console: Console, name: str, verdict: Verdict) -> None:
    word, style = _WORDS[verdict.truth]
    console.print(clean(f"{word:8}{name}", style, limit=1000), soft_wrap=True)
    for reason in verdict.reasons:
        console.print(clean(f"          {_sentence(reason)}", limit=1000), soft_wrap=True)


def _sentence(reason: Reason) -> str:
    """`exe: /usr/bin/vim is not so: /usr/bin/less`."""
    words = {True: "holds", False: "does not hold", None: "unknown"}
    value = "" if reason.value is None else f": {_shown(reason.value)}"
    if reason.value is None and not reason.why:
        value = ": there is none"
    why = f", it {reason.why}" if reason.why else ""
    return f"{reason.condition}: {words[reason.truth]}{value}{why}"


def _shown(value: object) -> str:
    return clean(value).plain


def _print_sigma(console: Console, outcome: Outcome) -> None:
    shown = [one for one in outcome.detections if one.verdict.truth is not False]
    for detection in shown:
        _print_verdict(console, f"Sigma: {detection.rule.detection.title}", detection.verdict)
    others = len(outcome.detections) - len(shown)
    if others:
        console.print(f"no      {others} Sigma rules")


def _print_outcome(console: Console, outcome: Outcome) -> None:
    by = "no rule decides" if outcome.rule is None else f"rule {outcome.rule.name}"
    if outcome.is_detected:
        by += ", and Sigma rules, which always log"
    console.print(clean(f"{outcome.action}: {by}", "bold"), soft_wrap=True)


def _as_json(facts: Facts, outcome: Outcome) -> dict[str, Any]:
    return {
        "event": facts.event,
        "command": _shown(facts.command),
        "values": {name: _shown(value) for name, value in facts.values.items()},
        "unknown": dict(facts.hidden),
        "action": outcome.action,
        "rule": None if outcome.rule is None else outcome.rule.name,
        "rules": [
            {"name": step.rule.name, "action": step.rule.action, **_verdict_as_json(step.verdict)}
            for step in outcome.steps
        ],
        "sigma": [
            {
                "id": one.rule.detection.rule_id,
                "title": one.rule.detection.title,
                **_verdict_as_json(one.verdict),
            }
            for one in outcome.detections
        ],
    }


def _verdict_as_json(verdict: Verdict) -> dict[str, Any]:
    def of_reason(reason: Reason) -> dict[str, Truth | str | None]:
        return {
            "condition": reason.condition,
            "holds": reason.truth,
            "value": None if reason.value is None else _shown(reason.value),
            "why": reason.why,
        }

    return {"holds": verdict.truth, "conditions": [of_reason(reason) for reason in verdict.reasons]}
