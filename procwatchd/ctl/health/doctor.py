# SPDX-License-Identifier: MIT
"""`procwatchctl doctor`: whether this machine is able, and the daemon healthy.

Each check is a function that yields what it found. One that cannot look says so, and the others go on.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from procwatchd.ctl.errors import CtlError
from procwatchd.ctl.health import journal as entries
from procwatchd.ctl.health import machine, service, storage
from procwatchd.ctl.health.system import Finding, Level, System, warn
from procwatchd.ctl.show.screen import clean, print_json, screen

Check = Callable[[System], Iterator[Finding]]

MACHINE: tuple[Check, ...] = (
    machine.kernel,
    machine.namespaces,
    machine.capabilities,
    machine.events,
    machine.receive_buffer,
    machine.accounting,
    machine.recording,
    machine.sysctls,
    service.clock,
)
DAEMON: tuple[Check, ...] = (
    service.unit,
    service.versions,
    service.configuration,
    service.permissions,
    service.redaction_key,
    service.table,
)
JOURNAL: tuple[Check, ...] = (entries.readable, storage.storage, storage.rate_limit)
# Of these nothing can be said where the journal may not be read.
ROOM: tuple[Check, ...] = (storage.room, storage.suppressed)
ENTRIES: tuple[Check, ...] = (
    entries.last_entry,
    entries.last_start,
    entries.losses,
    entries.blindness,
    entries.clock_jumps,
    entries.forgeries,
)

TEXT_LIMIT = 2000
_STYLES = {Level.OK: "green", Level.WARN: "bold yellow", Level.FAIL: "bold red"}


def doctor(options: argparse.Namespace, system: System | None = None) -> int:
    """Run the command, on this machine or another one."""
    found = examine(system or System())
    levels = Counter(finding.level for findings in found.values() for finding in findings)
    if options.json:
        print_json(_as_json(found, levels))
    else:
        with screen(has_pager=not options.no_pager) as console:
            _print(console, found, levels)
    return int(levels[Level.FAIL] > 0 or (options.strict and levels[Level.WARN] > 0))


def examine(system: System) -> dict[str, list[Finding]]:
    """What all checks found, by what they are about."""
    found = {
        "machine": list(_look(MACHINE, system)),
        "daemon": list(_look(DAEMON, system)),
        "journal": list(_look(JOURNAL, system)),
    }
    if not system.why_no_journal:
        found["journal"] += _look(ROOM, system)
        found["entries"] = list(_look(ENTRIES, system))
    return found


def _look(checks: Iterable[Check], system: System) -> Iterator[Finding]:
    for check in checks:
        name = check.__name__.replace("_", " ")
        try:
            yield from check(system)
        except (CtlError, OSError, ValueError) as error:
            yield warn(name, f"not looked at: {error}")


def _print(console: Console, found: Mapping[str, list[Finding]], levels: Mapping[Level, int]) -> None:
    widest = max(len(finding.check) for findings in found.values() for finding in findings)
    for subject, findings in found.items():
        console.print(Text(subject, style="bold"))
        grid = Table.grid(padding=(0, 2))
        grid.add_column(no_wrap=True)
        grid.add_column(no_wrap=True, min_width=widest)
        grid.add_column(overflow="fold")
        for finding in findings:
            level = Text(f"{finding.level.value:<4}", style=_STYLES[finding.level])
            grid.add_row(level, clean(finding.check), _text(finding))
        console.print(Padding(grid, (0, 0, 1, 2), expand=False))
    console.print(_summary(levels))


def _text(finding: Finding) -> Text:
    text = clean(finding.found, limit=TEXT_LIMIT)
    if finding.advice and finding.level is not Level.OK:
        text.append("\n").append_text(clean(f"→ {finding.advice}", "cyan", limit=TEXT_LIMIT))
    return text


def _summary(levels: Mapping[Level, int]) -> Text:
    worst = _worst(levels)
    words = f"{levels[Level.OK]} OK, {levels[Level.WARN]} WARN, {levels[Level.FAIL]} FAIL"
    return Text(words, style=_STYLES[worst])


def _worst(levels: Mapping[Level, int]) -> Level:
    return next((level for level in (Level.FAIL, Level.WARN) if levels[level]), Level.OK)


def _as_json(found: Mapping[str, list[Finding]], levels: Mapping[Level, int]) -> dict[str, Any]:
    return {
        "worst": _worst(levels).value,
        "counts": {level.value: levels[level] for level in Level},
        "findings": [
            {
                "subject": subject,
                "check": finding.check,
                "level": finding.level.value,
                "found": finding.found,
                "advice": finding.advice,
                **({"values": dict(finding.values)} if finding.values else {}),
            }
            for subject, findings in found.items()
            for finding in findings
        ],
    }
