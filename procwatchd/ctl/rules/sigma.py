# SPDX-License-Identifier: MIT
"""`procwatchctl sigma`: the Sigma rules that are loaded, and those that cannot be."""

from __future__ import annotations

import argparse

from procwatchd.config import load_config
from procwatchd.ctl.show.screen import clean, print_json, screen, table
from procwatchd.journal.quote import printable
from procwatchd.rules.detection import LEVELS
from procwatchd.rules.sigma import STATUSES, Sigma, SigmaRule
from procwatchd.sigmafiles import load_sigma


def sigma(options: argparse.Namespace) -> int:
    """Run the command."""
    # What somebody names is all of it wanted, however little it is worth.
    loaded = (
        load_sigma(options.paths, next(iter(LEVELS)), STATUSES, ()) if options.paths else load_config().sigma
    )
    if options.json:
        print_json(
            {
                "rules": [_row(rule) for rule in loaded.rules],
                "problems": loaded.problems,
                "others": loaded.others,
            }
        )
    elif options.what == "list":
        _print_rules(loaded, has_pager=not options.no_pager)
    else:
        _print_problems(loaded, has_pager=not options.no_pager)
    return int(options.what == "check" and bool(loaded.problems))


def _row(rule: SigmaRule) -> dict[str, str]:
    found = rule.detection
    row = {
        "title": found.title,
        "level": found.level,
        "status": rule.status,
        "id": found.rule_id,
        "file": rule.file,
    }
    return {name: printable(value) for name, value in row.items()}


def _print_rules(loaded: Sigma, *, has_pager: bool) -> None:
    shown = table("title", "level", "status", "id", "file")
    for rule in loaded.rules:
        shown.add_row(*(clean(value) for value in _row(rule).values()))
    with screen(has_pager=has_pager) as console:
        console.print(shown)
        console.print(_sentence(loaded))
        if loaded.problems:
            console.print("'procwatchctl sigma check' names the problems", style="yellow")


def _print_problems(loaded: Sigma, *, has_pager: bool) -> None:
    with screen(has_pager=has_pager) as console:
        for problem in loaded.problems:
            console.print(clean(problem, "red", limit=1 << 16), soft_wrap=True)
        console.print(_sentence(loaded))


def _sentence(loaded: Sigma) -> str:
    return (
        f"{len(loaded.rules)} rules, {len(loaded.problems)} problems, {loaded.others} files for something else, or "
        "below what is asked for"
    )
