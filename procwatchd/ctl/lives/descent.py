# SPDX-License-Identifier: MIT
"""A process's entries, and before them the execs of its ancestors: from an end back to where it came from.

In the journal the index finds them: the last entry of a PID names the life, and that its parent and other ancestors. A
file is read once, and kept of it are the last execs of the living.
"""

from __future__ import annotations

import argparse
import itertools
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from procwatchd.ctl.errors import CtlError
from procwatchd.ctl.lives.lives import IMAGES_LIMIT, LINE_LIMIT, Life, Lives, is_before, named_ancestors
from procwatchd.ctl.past.entries import Entries, Entry, number, realtime_usec, text_of
from procwatchd.ctl.past.filters import Filter
from procwatchd.ctl.past.progress import with_progress

# Limits.
OWN_LIMIT = 10_000  # entries of a process in a file
BOOTS_LIMIT = 16  # of machines, on each of which one may be meant


def read_descent(options: argparse.Namespace, entries: Entries) -> Iterator[Entry]:
    """The execs of the ancestors, the farthest first, then all entries of the process that the options ask for.

    Of a PID that is the last process that had it. Counts in `entries` what was passed over. Raises CtlError for none.
    """
    found = _in_journal(options) if options.file is None else _in_file(options, entries)
    first = next(found, None)
    if first is None:
        name = f"PID {options.pid}" if options.process_id is None else f"PROCESS_ID {options.process_id}"
        raise CtlError(f"there is no entry of a process with {name}")
    return itertools.chain([first], found)


def _in_journal(options: argparse.Namespace) -> Iterator[Entry]:
    asked = {"PROCESS_ID": options.process_id, "PID": options.pid}
    matches = {name: str(value) for name, value in asked.items() if value is not None}
    for last in Entries(options, _filter(matches)).last(1):
        boot, process_id = str(last.get("_BOOT_ID")), text_of(last, "PROCESS_ID")
        if process_id:
            matches = {"PROCESS_ID": process_id}
        own = (one for one in Entries(options, _filter(matches)) if one.get("_BOOT_ID") == boot)
        first = next(own, last)
        yield from _ancestors(options, boot, first)
        yield first
        yield from own


def _filter(matches: dict[str, str]) -> Filter:
    return Filter({name: [value] for name, value in matches.items()})


def _ancestors(options: argparse.Namespace, boot: str, child: Entry) -> Iterator[Entry]:
    """The execs of the ancestors before this entry."""
    born_usec = realtime_usec(child) or 0
    names = deque(named_ancestors(child))
    parent = text_of(child, "PARENT_PROCESS_ID")
    execs: deque[Entry] = deque()
    for _ in range(LINE_LIMIT):
        comm, pid = names.popleft() if names else ("", 0)
        if not parent and not pid:
            break
        entries = Entries(options, _filter({"PROCESS_ID": parent} if parent else {"PID": str(pid)}))
        entries.since_usec, entries.until_usec = None, born_usec
        before = [one for one in entries if one.get("_BOOT_ID") == boot]
        if not parent:
            before = _last_life(before, comm)
        parent = text_of(before[-1], "PARENT_PROCESS_ID") if before else ""
        execs.extendleft(reversed([one for one in before if _is_exec(one)][-IMAGES_LIMIT:]))
    yield from execs


def _last_life(entries: list[Entry], comm: str) -> list[Entry]:
    """Of entries of one PID those of the last life, if it lives on under that name: else it may be another."""
    if not entries or entries[-1].get("PROCWATCH_EVENT") == "exit" or text_of(entries[-1], "COMM") != comm:
        return []
    process_id = text_of(entries[-1], "PROCESS_ID")
    return [one for one in entries if text_of(one, "PROCESS_ID") == process_id]


def _in_file(options: argparse.Namespace, entries: Entries) -> Iterator[Entry]:
    reading = Entries(options)
    reading.skipped = entries.skipped
    reading.since_usec = reading.until_usec = None  # ancestors may have begun long before
    lives = Lives()
    # Of each boot the last that is meant: which of all was the last is known in the end.
    found: dict[str, _Own] = {}
    for entry in with_progress(reading):
        life = lives.take(entry)
        if life is None:
            continue
        if _is_meant(options, life) and entries.is_in_time(entry):
            _add(found, life, entry)
        if _is_exec(entry):
            life.place = life.place or deque(maxlen=IMAGES_LIMIT)
            life.place.append(entry)
    if found:
        own = next(reversed(found.values()))
        yield from own.entries
        if own.more:
            entries.skipped.add(f"process {own.life.pid}", f"{own.more} entries above {OWN_LIMIT} of them")


@dataclass(slots=True)
class _Own:
    """A process with the execs before it, and its entries, of which `more` found no room."""

    life: Life
    entries: list[Entry]
    more: int = 0


def _add(found: dict[str, _Own], life: Life, entry: Entry) -> None:
    own = found.get(life.key[0])
    if own is None or own.life is not life:
        if own is not None and is_before(life.key[1], own.life.key[1]):
            return  # it comes late, of who had the PID before
        found.pop(life.key[0], None)
        own = found[life.key[0]] = _Own(life, _execs_before(life))
        if len(found) > BOOTS_LIMIT:
            del found[next(iter(found))]
    if len(own.entries) < OWN_LIMIT:
        own.entries.append(entry)
    else:
        own.more += 1


def _execs_before(life: Life) -> list[Entry]:
    execs: deque[Entry] = deque()
    above = life.parent
    while above is not None:
        execs.extendleft(reversed(above.place or ()))
        above = above.parent
    return list(execs)


def _is_meant(options: argparse.Namespace, life: Life) -> bool:
    return (options.pid is None or life.pid == options.pid) and (
        options.process_id is None or life.key[1] == options.process_id
    )


def _is_exec(entry: Entry) -> bool:
    return entry.get("PROCWATCH_EVENT") == "exec" and number(entry, "TID") is None
