# SPDX-License-Identifier: MIT
"""The daemon's entries of a time: from the journal, this machine's or others', or from JSON lines.

Facts:
- An entry is a mapping of names to texts; to bytes, or in JSON a list of them, where the value is not UTF-8; and to a
  list of these where the field is there more than once [journalctl(1), -o json; systemd.journal.Reader].
- journald takes down both clocks with each entry, the wall clock as __REALTIME_TIMESTAMP and the kernel's as
  __MONOTONIC_TIMESTAMP [systemd.journal-fields(7)]: their difference makes wall clock time of MONOTONIC_USEC, the same
  whoever asks. What `procwatchd --output json` writes has the event's own time as the former [journal/jsonlines.py].
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO

from procwatchd.ctl.errors import CtlError
from procwatchd.ctl.past.facts import ForeignError, kind_of
from procwatchd.ctl.past.filters import ALL, Filter
from procwatchd.ctl.past.journal import Journal, parse_time
from procwatchd.ctl.past.jsonlines import Skipped, follow_objects, read_objects
from procwatchd.journal.kinds import MESSAGE_IDS, PREFIX
from procwatchd.journal.quote import printable
from procwatchd.tape import HEADER

STANDARD_INPUT = "-"
NUMBER_LIMIT = 10**18  # for 64 bits, with a sign
LATE_USEC = 60_000_000  # no entry is written later than that: the clocks are not of one machine
TIME_LIMIT_USEC = 1 << 57  # in the year 6535: no calendar ends before

Entry = Mapping[str, Any]


class Entries:
    """Gives the entries that the options ask for, the oldest first; while it does, counts what is none.

    All of them are the daemon's, and of a kind that is known here. `skipped` is what was passed over.
    """

    def __init__(self, options: argparse.Namespace, wanted: Filter = ALL) -> None:
        self.skipped = Skipped()
        self.since_usec = None if options.since is None else parse_time(options.since)
        self.until_usec = None if options.until is None else parse_time(options.until)
        self._wanted = wanted
        self._file: str | None = options.file
        self._directory: str | None = options.directory
        self._is_merged: bool = getattr(options, "merge", False)

    def __iter__(self) -> Iterator[Entry]:
        """All of them."""
        if self._file is None:
            between = self._journal().between(self.since_usec, self.until_usec)
            yield from self.only_ours(_with_cursors(between))
            return
        with open_file(self._file) as file:
            yield from self.only_ours(self._no_recording(read_objects(file, self._file, self.skipped)))

    def last(self, count: int) -> list[Entry]:
        """The last so many of them."""
        if self._file is not None:
            return list(collections.deque(self, maxlen=count))
        return self._last(count)[0]

    def follow(self, shown: int) -> Iterator[Entry | None]:
        """The last `shown`, or those since the time asked for, then all that come; None where there are no more yet."""
        if self._file is not None:
            # Standard input ends when whoever writes it does.
            with open_file(self._file) as file:
                yield from self._followed(follow_objects(file, self._file, self.skipped))
            return
        begun = time.time_ns() // 1000 if self.since_usec is None else self.since_usec
        after = None
        if self.since_usec is None:
            entries, after = self._last(shown)
            yield from entries
        for entry in self._journal().follow(begun, after):
            if entry is None:
                yield None
            else:
                yield from self.only_ours(_with_cursors([entry]))

    def _followed(self, lines: Iterable[tuple[str, Entry] | None]) -> Iterator[Entry | None]:
        is_first = True
        for found in lines:
            if found is None:
                yield None
            else:
                yield from self.only_ours(self._no_recording([found]) if is_first else [found])
                is_first = False

    def hosts(self) -> set[str]:
        """Of which machines the journal has entries; of a file nobody knows before it is read."""
        return self._journal().hosts() if self._file is None else set()

    def _last(self, count: int) -> tuple[list[Entry], str | None]:
        """The last so many, and the cursor of the last of all, wanted or not."""
        found: list[Entry] = []
        newest: str | None = None
        for entry in self._journal().latest():
            newest = newest or entry["__CURSOR"]
            is_early = self.since_usec is not None and entry["__REALTIME_TIMESTAMP"] < self.since_usec
            if is_early or len(found) == count:
                break
            found += self.only_ours(_with_cursors([entry]))
        return found[::-1], newest

    def only_ours(self, entries: Iterable[tuple[str, Entry]]) -> Iterator[Entry]:
        """Those of `entries`, each with its place, that are the daemon's and wanted."""
        for where, entry in entries:
            try:
                if kind_of(entry) not in MESSAGE_IDS:
                    raise ForeignError("of a kind that this procwatchctl does not know")
                if self.is_in_time(entry) and self._wanted.holds(entry):
                    yield entry
            except ForeignError as error:
                self.skipped.add(where, str(error))

    def _journal(self) -> Journal:
        return Journal(self._wanted.in_index, self._directory, is_merged=self._is_merged)

    def _no_recording(self, lines: Iterable[tuple[str, Entry]]) -> Iterator[tuple[str, Entry]]:
        for at, (where, entry) in enumerate(lines):
            if at == 0 and HEADER in entry:
                raise CtlError(f"{self._file} is a recording: 'test' and 'explain' read it")
            yield where, entry

    def is_in_time(self, entry: Entry) -> bool:
        """Whether an entry is of the time that was asked for."""
        if self.since_usec is None and self.until_usec is None:
            return True
        when = realtime_usec(entry)
        if when is None:
            raise ForeignError("without a time")
        is_early = self.since_usec is not None and when < self.since_usec
        return not is_early and (self.until_usec is None or when <= self.until_usec)


def _with_cursors(entries: Iterable[Entry]) -> Iterator[tuple[str, Entry]]:
    return ((str(entry.get("__CURSOR")), entry) for entry in entries)


def text_of(entry: Entry, name: str) -> str:
    """The value of PROCWATCH_`name` as clean text, the first where there are more; "" where there is none."""
    return full_text_of(entry, PREFIX + name)


def full_text_of(entry: Entry, name: str) -> str:
    """The same of any field, by its full name."""
    value = entry.get(name)
    if isinstance(value, list) and not (value and isinstance(value[0], int)):
        value = value[0] if value else ""
    if isinstance(value, list):
        value = _bytes_of(value)
    return printable(value) if isinstance(value, str | bytes) else ""


def _bytes_of(value: list[Any]) -> bytes:
    try:
        return bytes(value)
    except (TypeError, ValueError):  # not what journalctl writes
        return b""


def number_of(raw: object) -> int | None:
    """A value as a number that is not negative; None for anything else."""
    if type(raw) is int:  # JSON's true is none
        return raw if 0 <= raw < NUMBER_LIMIT else None
    return int(raw) if isinstance(raw, str) and raw.isascii() and raw.isdigit() and len(raw) < 19 else None


def number(entry: Entry, name: str) -> int | None:
    """The value of PROCWATCH_`name`, where it is a number."""
    return number_of(entry.get(PREFIX + name))


def realtime_usec(entry: Entry) -> int | None:
    """When the journal took the entry, since 1970."""
    when = number_of(entry.get("__REALTIME_TIMESTAMP"))
    return when if when is None or when < TIME_LIMIT_USEC else None


def as_json(entry: Entry) -> dict[str, Any]:
    """The entry as `journalctl -o json` has it, for json.dumps()."""
    return {name: _json_value(value) for name, value in entry.items()}


def _json_value(value: object) -> object:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return list(value)
    if isinstance(value, list):
        # Of a file it is that already: bytes, or values.
        return [one if isinstance(one, int) else _json_value(one) for one in value]
    return str(value)


def kernel_usec(entry: Entry) -> int | None:
    """The kernel's time of the event, in µs since 1970, where the journal took down both clocks with the entry."""
    written, read = realtime_usec(entry), number_of(entry.get("__MONOTONIC_TIMESTAMP"))
    happened = number(entry, "MONOTONIC_USEC")
    if written is None or read is None or happened is None or not 0 <= read - happened < LATE_USEC:
        return None
    found = written - (read - happened)
    return found if found >= 0 else None


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
