# SPDX-License-Identifier: MIT
"""The events of the past: from the journal, from JSON lines, or from a recording."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO

from procwatchd.ctl.errors import CtlError
from procwatchd.ctl.facts import Facts, ForeignError, facts_of_entry, kind_of
from procwatchd.ctl.journal import Journal, parse_time
from procwatchd.ctl.jsonlines import Skipped, read_objects
from procwatchd.ctl.recording import Recording, is_recording
from procwatchd.journal.kinds import MESSAGE_IDS, PREFIX
from procwatchd.process.fields import EVENTS

STANDARD_INPUT = "-"


class Past:
    """Gives events; while it does, counts what is none, and what was there once and is not any more.

    `dropped` is how many events rules dropped, by the account that the daemon gave; None where none was read.
    `summarised` and `lost` are by the entries on that.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.skipped = Skipped()
        self.dropped: int | None = None
        self.summarised = 0
        self.lost = 0
        self.is_recording = False
        self._dropped_before: int | None = None
        self._file: str | None = options.file
        self._directory: str | None = options.directory
        self._since_usec = None if options.since is None else parse_time(options.since)
        self._until_usec = None if options.until is None else parse_time(options.until)

    def events(self) -> Iterator[Facts]:
        """All of them, the oldest first."""
        if self._file is None:
            entries = Journal({}, self._directory).between(self._since_usec, self._until_usec)
            yield from self._events((str(entry.get("__CURSOR")), entry) for entry in entries)
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
                yield from self._events(itertools.chain([first], lines))

    def _events(self, entries: Iterable[tuple[str, dict[str, Any]]]) -> Iterator[Facts]:
        for where, entry in entries:
            try:
                kind = kind_of(entry)
                if kind not in MESSAGE_IDS:
                    raise ForeignError("of a kind that this procwatchctl does not know")
                if not self._is_in_time(entry):
                    continue
                if kind in EVENTS:
                    yield facts_of_entry(entry)
                else:
                    self._account(kind, entry)
            except ForeignError as error:
                self.skipped.add(where, str(error))

    def _is_in_time(self, entry: Mapping[str, Any]) -> bool:
        """Whether an entry is of the time that was asked for."""
        if self._since_usec is None and self._until_usec is None:
            return True
        when = _number(entry.get("__REALTIME_TIMESTAMP"))
        if when is None:
            raise ForeignError("without a time")
        is_early = self._since_usec is not None and when < self._since_usec
        return not is_early and (self._until_usec is None or when <= self._until_usec)

    def _recorded(self, lines: Iterable[tuple[str, dict[str, Any]]]) -> Iterator[Facts]:
        recording = Recording()
        for where, line in lines:
            try:
                facts = recording.take(line)
            except ForeignError as error:
                self.skipped.add(where, str(error))
            else:
                if facts is not None:
                    yield facts

    def _account(self, kind: str, entry: Mapping[str, Any]) -> None:
        """What an entry of the daemon's own says of events that have none."""
        count = _number(entry.get(PREFIX + "COUNT")) or 0
        if kind == "summary":
            self.summarised += count
        elif kind == "loss":
            self.lost += count
        elif kind == "start":
            self._dropped_before = 0
        dropped = _number(entry.get(PREFIX + "DROPPED"))
        if dropped is not None:
            before = self._dropped_before
            # What was dropped before what was read is not of that time.
            self.dropped = (self.dropped or 0) + (0 if before is None else max(0, dropped - before))
            self._dropped_before = dropped


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
    journal = Journal(wanted, options.directory)
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


def _number(raw: object) -> int | None:
    if isinstance(raw, int):
        return raw
    return int(raw) if isinstance(raw, str) and raw.isascii() and raw.isdigit() and len(raw) < 20 else None


@contextlib.contextmanager
def open_file(path: str) -> Iterator[BinaryIO]:
    """A file to read, `-` for standard input. Raises CtlError."""
    if path == STANDARD_INPUT:
        yield sys.stdin.buffer
        return
    try:
        file = open(path, "rb")  # noqa: SIM115  errors of reading are others' than those of opening
    except (OSError, ValueError) as error:
        raise CtlError(f"cannot open {path}: {getattr(error, 'strerror', None) or error}") from None
    with file:
        yield file
