# SPDX-License-Identifier: MIT
"""The events of the past: from the journal, from JSON lines, or from a recording."""

from __future__ import annotations

import argparse
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from procwatchd.ctl.errors import CtlError
from procwatchd.ctl.past.absent import Absent
from procwatchd.ctl.past.entries import Entries, Entry, full_text_of, open_file
from procwatchd.ctl.past.facts import Facts, ForeignError, facts_of_entry, kind_of
from procwatchd.ctl.past.journal import Journal
from procwatchd.ctl.past.jsonlines import read_objects
from procwatchd.ctl.past.recording import Recording, is_recording
from procwatchd.journal.kinds import PREFIX
from procwatchd.process.fields import EVENTS

# What tells machines, and their boots, apart.
_MACHINE = ("_MACHINE_ID", "_HOSTNAME", "_BOOT_ID")


class Past:
    """Gives events; while it does, counts what is none, and what was there once and is not any more.

    What became of events that have no entry is in `absent`, by the daemon's own entries.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self._entries = Entries(options)
        self.skipped = self._entries.skipped
        self.absent = Absent()
        self.is_recording = False
        self._has_time = options.since is not None or options.until is not None
        # How often each machine's daemon was started.
        self._starts: Counter[tuple[str, ...]] = Counter()
        self._file: str | None = options.file

    def events(self) -> Iterator[Facts]:
        """All of them, the oldest first."""
        if self._file is None:
            yield from self._events(self._entries)
            return
        with open_file(self._file) as file:
            lines = read_objects(file, self._file, self.skipped)
            first = next(lines, None)
            if first is None:
                return
            try:
                self.is_recording = is_recording(first[1])
            except ForeignError as error:
                raise CtlError(f"{first[0]}: {error}") from None
            if self.is_recording:
                yield from self._recorded(lines)
            else:
                yield from self._events(self._entries.only_ours(itertools.chain([first], lines)))

    def _events(self, entries: Iterable[Entry]) -> Iterator[Facts]:
        for entry in entries:
            kind = kind_of(entry)
            machine = tuple(full_text_of(entry, name) for name in _MACHINE)
            if kind in EVENTS:
                yield facts_of_entry(entry, (*machine, self._starts[machine]))
                continue
            self._starts[machine] += kind == "start"
            self.absent.take(kind, entry)

    def _recorded(self, lines: Iterable[tuple[str, dict[str, Any]]]) -> Iterator[Facts]:
        if self._has_time:
            raise CtlError(
                f"{self._file} is a recording, which has no times of the day: no --since, no --until"
            )
        recording = Recording()
        for where, line in lines:
            try:
                facts = recording.take(line)
            except ForeignError as error:
                self.skipped.add(where, str(error))
            else:
                if facts is not None:
                    yield facts


def find_event(options: argparse.Namespace, past: Past) -> Iterator[Facts]:
    """Events up to the one that the options ask for, which is the last; of the journal that one alone."""
    if options.file is None:
        yield _from_journal(options)
        return
    if options.cursor is not None:
        raise CtlError("a cursor is a place in the journal, not in a file")
    wanted = _wanted(options)
    for facts in past.events():
        if not facts.is_living and all(_shown(facts, name) == value for name, value in wanted.items()):
            yield facts
            return
        if past.is_recording:
            yield facts
    raise CtlError(f"no event in {options.file} is {_describe(wanted)}")


def _from_journal(options: argparse.Namespace) -> Facts:
    wanted = _wanted(options)
    journal = Journal({name: [value] for name, value in wanted.items()}, options.directory)
    if options.cursor is not None:
        entry = journal.at(options.cursor)
    else:
        entry = next((one for one in journal.latest() if one.get(PREFIX + "EVENT") in EVENTS), {})
    if not entry:
        raise CtlError(f"no event in the journal is {_describe(wanted)}")
    try:
        return facts_of_entry(entry)
    except ForeignError as error:
        raise CtlError(f"this entry is {error}") from None


def _wanted(options: argparse.Namespace) -> dict[str, str]:
    asked = {"PID": options.pid, "PROCESS_ID": options.process_id, "EVENT": options.event}
    return {name: str(value) for name, value in asked.items() if value is not None}


def _shown(facts: Facts, name: str) -> str:
    value = facts.values.get(name)
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _describe(wanted: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in wanted.items()) or "there"
