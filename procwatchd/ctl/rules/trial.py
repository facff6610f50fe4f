# SPDX-License-Identifier: MIT
"""`procwatchctl test`: what would have become of past events under other rules."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any

from rich.console import Console
from rich.text import Text

from procwatchd.config import load_config
from procwatchd.ctl.past.absent import Absent
from procwatchd.ctl.past.events import Past
from procwatchd.ctl.past.facts import Facts
from procwatchd.ctl.past.recording import End, read_end
from procwatchd.ctl.past.truth import Verdict
from procwatchd.ctl.rules.judge import UNDECIDABLE, Judge
from procwatchd.ctl.show.missing import dropped
from procwatchd.ctl.show.screen import clean, print_json, print_problems, print_skipped, screen, table

SAMPLES = 3  # distinct ones, of each rule
SAMPLE_CHARACTERS = 100


@dataclass(slots=True)
class Tally:
    """What a rule came to: `decided` of those that it matched, `undecidable` where nobody can say."""

    name: str
    action: str
    matched: int = 0
    decided: int = 0
    undecidable: int = 0
    samples: dict[str, None] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, verdict: Verdict, facts: Facts, *, decides: bool) -> None:
        """Count what it came to for an event."""
        if verdict.truth:
            self.matched += 1
            self.decided += decides
            if len(self.samples) < SAMPLES:
                self.samples[facts.command[:SAMPLE_CHARACTERS]] = None
        elif verdict.truth is None:
            self.undecidable += 1
            self.reasons.update(f"{one.condition.partition(':')[0]} {one.why}" for one in verdict.reasons)

    def as_json(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "name": self.name,
            "action": self.action,
            "matched": self.matched,
            "decided": self.decided,
            "undecidable": self.undecidable,
            "why": [why for why, _ in self.reasons.most_common(SAMPLES)],
            "samples": [clean(sample).plain for sample in self.samples],
        }


class Trial:
    """Counts what becomes of one event after another."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self.events = 0
        self.outcomes: Counter[str] = Counter()
        self.rules = {rule.name: Tally(rule.name, rule.action) for rule in judge.rules.rules}
        self.unmatched = Tally("", judge.rules.unmatched)
        self.sigma = [Tally(rule.detection.title, rule.detection.level) for rule in judge.sigma.rules]

    def add(self, facts: Facts) -> None:
        """Judge an event and count it."""
        outcome = self._judge.judge(facts)
        if facts.is_living:
            return
        self.events += 1
        self.outcomes[outcome.action] += 1
        for step in outcome.steps:
            decides = step.rule is outcome.rule
            self.rules[step.rule.name].add(step.verdict, facts, decides=decides)
        if outcome.rule is None:
            self.unmatched.add(Verdict(True), facts, decides=True)
        for tally, detection in zip(self.sigma, outcome.detections, strict=False):
            tally.add(detection.verdict, facts, decides=True)

    def tallies(self) -> Iterator[Tally]:
        """Those of the rules in order, then of what none decided."""
        yield from self.rules.values()
        yield self.unmatched


def test(options: argparse.Namespace) -> int:
    """Run the command."""
    judge = Judge(load_config(options.rules))
    trial, past = Trial(judge), Past(options)
    for facts in past.events():
        trial.add(facts)
    end = read_end(options.file) if past.is_recording else None
    if options.json:
        print_json({**_as_json(trial, past, end), "sigma_problems": judge.sigma.problems})
        return 0
    with screen(has_pager=not options.no_pager) as console:
        _print_rules(console, trial)
        if trial.sigma:
            _print_sigma(console, trial)
        print_problems(console, judge.sigma.problems)
        _print_notes(console, trial, past, end)
    return 0


def _as_json(trial: Trial, past: Past, end: End | None) -> dict[str, Any]:
    return {
        "events": trial.events,
        "outcomes": {action: trial.outcomes[action] for action in ("log", "drop", "count", UNDECIDABLE)},
        "rules": [tally.as_json() for tally in trial.rules.values()],
        "unmatched": trial.unmatched.as_json(),
        "sigma": [tally.as_json() for tally in trial.sigma if tally.matched or tally.undecidable],
        "absent": _absent_of_recording(end) if past.is_recording else _absent_of_entries(past.absent),
        "skipped": {"count": past.skipped.count, "first": past.skipped.shown},
    }


def _absent_of_recording(end: End | None) -> dict[str, int | None]:
    return {field.name: None if end is None else getattr(end, field.name) for field in fields(End)}


def _print_rules(console: Console, trial: Trial) -> None:
    shown = table("rule", "action", "matched", "decided", "undecidable", "samples")
    for column in shown.columns[2:5]:
        column.justify = "right"
    for tally in trial.tallies():
        shown.add_row(
            clean(tally.name or "(none)"),
            clean(tally.action),
            str(tally.matched),
            str(tally.decided),
            clean(tally.undecidable, "yellow" if tally.undecidable else ""),
            _samples(tally),
        )
    console.print(shown)


def _print_sigma(console: Console, trial: Trial) -> None:
    found = [tally for tally in trial.sigma if tally.matched or tally.undecidable]
    console.print(f"\nSigma rules: {len(trial.sigma)}, of which {len(found)} match or may")
    if not found:
        return
    shown = table("title", "level", "matched", "undecidable", "samples")
    for tally in found:
        shown.add_row(
            clean(tally.name),
            clean(tally.action),
            str(tally.matched),
            str(tally.undecidable),
            _samples(tally),
        )
    console.print(shown)


def _samples(tally: Tally) -> Text:
    """One a line; where nothing was sure, why not."""
    lines = [clean(sample) for sample in tally.samples]
    lines += [clean(f"unknown: {why}", "yellow") for why, _ in tally.reasons.most_common(1)]
    return Text("\n").join(lines)


def _absent_of_entries(absent: Absent) -> dict[str, Any]:
    return {
        "dropped": absent.dropped,
        "dropped_since_usec": absent.dropped_since_usec,
        "dropped_until_usec": absent.dropped_until_usec,
        "summarised": absent.summarised,
        "lost": absent.lost_events,
    }


def _print_notes(console: Console, trial: Trial, past: Past, end: End | None) -> None:
    """All together, and what is missing in it."""
    found = ", ".join(
        f"{trial.outcomes[action]} {action}" for action in ("log", "drop", "count", UNDECIDABLE)
    )
    console.print(f"\n{trial.events} events: {found}; limits are not tried")
    if past.is_recording:
        _print_end(console, end)
    else:
        absent = past.absent
        console.print(
            f"not in it, and so not tried: {absent.summarised} summarised, {absent.lost_events} lost, "
            f"and {dropped(absent)}",
            style="yellow",
        )
    print_skipped(console, past.skipped)


def _print_end(console: Console, end: End | None) -> None:
    if end is None:
        console.print("nothing tells whether the recording is whole", style="yellow")
    elif end.unwritten or end.lost or end.gaps:
        console.print(
            f"not in it, and so not tried: {end.unwritten} for which it had no room, {end.lost} lost; other gaps: "
            f"{end.gaps}",
            style="yellow",
        )
