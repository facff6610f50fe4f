# SPDX-License-Identifier: MIT
"""Whose processes `tree` and `plot` are asked for, by --pid, --process-id, --unit and --session, and from when on."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from procwatchd.ctl.errors import CtlError
from procwatchd.ctl.lives.lives import Life
from procwatchd.ctl.past.entries import Entry, number, realtime_usec, text_of
from procwatchd.ctl.past.journal import Journal

IsRoot: TypeAlias = Callable[[Life], bool]

# systemd.unit(5) has these.
_UNIT_TYPES = (
    ".service",
    ".scope",
    ".socket",
    ".slice",
    ".timer",
    ".mount",
    ".automount",
    ".swap",
    ".path",
    ".target",
    ".device",
)

# What the entries of its children have of a process.
_AS_PARENT = {"PID": "PPID", "PROCESS_ID": "PARENT_PROCESS_ID"}
_NEVER = 1 << 62


@dataclass(frozen=True, slots=True)
class Roots:
    """Which lives are asked for, of a Forest; `since_usec` is when these began, where nobody says from when to read."""

    is_wanted: IsRoot
    since_usec: int | None = None


def find_roots(options: argparse.Namespace) -> Roots:
    """What the options ask for: of a PID in the journal the last process that had it. Raises CtlError for none."""
    is_root = _is_root(options)
    if is_root is None:
        return Roots(lambda _life: True)
    has_time = options.since is not None or options.until is not None
    asked = {"PID": options.pid, "PROCESS_ID": options.process_id, "SESSION": options.session}
    matches = {name: str(value) for name, value in asked.items() if value is not None}
    if options.file is not None or has_time or not matches:
        return Roots(_or_below(is_root))
    return _last(options, matches, is_root)


def _is_root(options: argparse.Namespace) -> IsRoot | None:
    """Whether a life is one of those asked for by itself; None where all are."""
    asked: list[IsRoot] = []
    if options.pid is not None:
        asked.append(lambda life: life.pid == options.pid)
    if options.process_id is not None:
        asked.append(lambda life: life.key[1] == options.process_id)
    if options.unit is not None:
        # A user's own has the user behind it.
        is_whole = options.unit.endswith((*_UNIT_TYPES, ")"))
        unit = options.unit if is_whole else f"{options.unit}.service"
        asked.append(lambda life: life.unit == unit)
    if options.session is not None:
        asked.append(lambda life: life.session == options.session)
    return (lambda life: all(one(life) for one in asked)) if asked else None


def _or_below(is_root: IsRoot) -> IsRoot:
    def is_wanted(life: Life | None) -> bool:
        while life is not None:
            if is_root(life):
                return True
            life = life.parent
        return False

    return is_wanted


def _last(options: argparse.Namespace, matches: dict[str, str], is_root: IsRoot) -> Roots:
    """The last process or session of that name, found by the journal's index."""

    def journal(name: str, value: str) -> Journal:
        return Journal({name: [value]}, options.directory, is_merged=options.merge)

    def is_meant(entry: Entry) -> bool:
        return all(text_of(entry, name) == value for name, value in matches.items())

    name, value = next(iter(matches.items()))
    latest = next((entry for entry in journal(name, value).latest() if is_meant(entry)), None)
    if latest is None and len(matches) == 1 and name in _AS_PARENT:
        # It was there before the daemon, or rules drop its entries: it is known as a parent alone.
        latest = next(journal(_AS_PARENT[name], value).latest(), None)
        if latest is not None and name == "PID":
            return Roots(_or_below(is_root))
    if latest is None:
        raise CtlError(
            f"no entry in the journal is of {' and '.join(f'{n} {v}' for n, v in matches.items())}"
            "; what is known only as an ancestor is found with --since"
        )
    boot, process_id = str(latest.get("_BOOT_ID", "")), text_of(latest, "PROCESS_ID")
    if name == "PID" and process_id:
        name, value = "PROCESS_ID", process_id

    # It may have been there before the daemon: its own first entry may be its end, after those of its children.
    own = _begun(journal(name, value), boot)
    children = _begun(journal(_AS_PARENT[name], value), boot) if name in _AS_PARENT else None

    def is_of_that(life: Life) -> bool:
        is_same = name != "PROCESS_ID" or life.key[1] == value
        return is_same and life.key[0] == boot and is_root(life)

    return Roots(_or_below(is_of_that), min((own, children), key=lambda usec: usec or _NEVER))


def _begun(journal: Journal, boot: str) -> int | None:
    """When what the first of these entries is about began, as far as it says."""
    for entry in journal.between(None, None):
        if entry.get("_BOOT_ID") == boot:
            return max(0, (realtime_usec(entry) or 0) - (number(entry, "DURATION_USEC") or 0))
    return None
