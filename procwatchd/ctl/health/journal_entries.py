# SPDX-License-Identifier: MIT
"""What `doctor` asks the journal: a few entries by the index, never all of them.

Facts:
- Between entries of one sequence the cursor's `i=`, hexadecimal, counts all that were written; `s=` names the sequence
  [systemd.journal-fields(7), sd_journal_get_cursor(3); libsystemd, src/libsystemd/sd-journal/].
- Matches of one field are alternatives, of several fields conditions; each entry that holds them is found by bisecting,
  without those between [sd_journal_add_match(3)].
- Calls of sd-journal give the interpreter's lock to others meanwhile, and cannot be ended: what may take long is done
  by a thread that nobody waits for in the end [systemd-python].
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import threading
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from systemd import journal

from procwatchd.ctl.errors import CtlError
from procwatchd.ctl.health.system import System
from procwatchd.ctl.past.facts import UNIT
from procwatchd.journal.kinds import MESSAGE_IDS, PREFIX

# Limits.
SEARCH_SECONDS = 1.2
FOREIGN_LIMIT = 1000  # entries of others that are gathered
LATEST = 20_000  # entries, the last ones, that are looked at each on its own
VALUES_LIMIT = 2000  # units or users that are searched for at once

Entry = dict[str, Any]


class Written(NamedTuple):
    """How many entries, of whatever program, were written within this time."""

    entries: int
    seconds: float


class Search(NamedTuple):
    """What was found, the newest first, and whether all of the journal was looked through."""

    entries: list[Entry]
    is_whole: bool


class Entries:
    """The journal of the machine whose files are below `root`. Raises CtlError where it cannot be opened."""

    def __init__(self, root: str = "") -> None:
        self._root = root

    def own(self, *kinds: str, since_usec: int = 0, limit: int = 1) -> list[Entry]:
        """The daemon's entries of these kinds, of a time, the newest first, at most so many."""
        with self._open() as reader:
            reader.add_match(_SYSTEMD_UNIT=UNIT)
            _match_kinds(reader, kinds)
            return list(_backwards(reader, since_usec, limit))

    def having(self, *matches: str, since_usec: int, limit: int) -> list[Entry]:
        """Entries with these fields, as NAME=VALUE, of a time, the newest first."""
        with self._open() as reader:
            for match in matches:
                reader.add_match(match)
            return list(_backwards(reader, since_usec, limit))

    def written(self, since_usec: int) -> Written | None:
        """How many entries there are since then, or since the first one of the last's sequence; None for too few."""
        with self._open() as reader:
            reader.seek_tail()
            last = reader.get_previous()
            reader.seek_realtime(since_usec)
            first = reader.get_next()
            if not last or not first:
                return None
            (sequence, end), (begun_in, begin) = _sequence(last), _sequence(first)
            seconds = (last["__REALTIME_TIMESTAMP"] - first["__REALTIME_TIMESTAMP"]) / 1e6
            return (
                Written(end - begin, seconds)
                if sequence == begun_in and end > begin and seconds > 0
                else None
            )

    def of_others(self, daemon_uid: int | None) -> Search:
        """Entries with our fields that the daemon did not send: among the last ones, then by who else sent any.

        That is by user, which is quick; where the daemon has none of its own by unit, of which there may be hundreds.
        """
        found: dict[str, Entry] = {}
        name, own = ("_UID", str(daemon_uid)) if daemon_uid else ("_SYSTEMD_UNIT", UNIT)

        def search() -> None:
            with contextlib.suppress(OSError, CtlError):  # of a file that is damaged, or just gone
                for entry in itertools.chain(self._latest(), self._by_field(name, own)):
                    if entry.get("_SYSTEMD_UNIT") != UNIT:
                        found[entry["__CURSOR"]] = entry
                    if len(found) >= FOREIGN_LIMIT:
                        return
                done.set()

        done = threading.Event()
        thread = threading.Thread(target=search, daemon=True)
        thread.start()
        thread.join(SEARCH_SECONDS)
        entries = sorted(found.copy().values(), key=lambda entry: -entry["__REALTIME_TIMESTAMP"])
        return Search(entries, done.is_set())

    def _latest(self) -> Iterator[Entry]:
        """The last entries with our fields, of whomever: of no unit, too."""
        with self._open() as reader:
            _match_kinds(reader, MESSAGE_IDS)
            yield from _backwards(reader, 0, LATEST)

    def _by_field(self, name: str, own: str) -> Iterator[Entry]:
        """Those with our fields in which this one has any other value than ours."""
        with self._open() as reader:
            others = [value for value in map(str, reader.query_unique(name)) if value != own]
            # Each value of a match takes its time at each entry: those alone that there are.
            kinds = MESSAGE_IDS.keys() & reader.query_unique(f"{PREFIX}EVENT")
            if not others or not kinds:
                return
            _match_kinds(reader, kinds)
            for value in others[:VALUES_LIMIT]:
                reader.add_match(f"{name}={value}")
            yield from _backwards(reader, 0, FOREIGN_LIMIT)

    def _open(self) -> journal.Reader:
        flags, path = (journal.LOCAL_ONLY, None) if not self._root else (0, f"{self._root}/var/log/journal")
        try:
            reader = journal.Reader(flags, path=path)
        except OSError as error:
            raise CtlError(f"the journal cannot be opened: {error.strerror}") from None
        reader.converters["__REALTIME_TIMESTAMP"] = int
        return reader


def _match_kinds(reader: journal.Reader, kinds: Iterable[str]) -> None:
    for kind in kinds:
        reader.add_match(f"{PREFIX}EVENT={kind}")


def _backwards(reader: journal.Reader, since_usec: int, limit: int) -> Iterator[Entry]:
    reader.seek_tail()
    for _ in range(limit):
        entry = reader.get_previous()
        if not entry or entry["__REALTIME_TIMESTAMP"] < since_usec:
            return
        yield entry


def _sequence(entry: Entry) -> tuple[str, int]:
    parts = dict(part.partition("=")[::2] for part in entry["__CURSOR"].split(";"))
    return parts["s"], int(parts["i"], 16)


def when_usec(entry: Entry) -> int:
    """When the journal took it, since 1970."""
    return int(entry["__REALTIME_TIMESTAMP"])


def monotonic_usec(entry: Entry) -> int:
    """The same by the kernel's clock, since the boot."""
    stamp: datetime.timedelta = entry["__MONOTONIC_TIMESTAMP"].timestamp
    return stamp // datetime.timedelta(microseconds=1)


def boot_of(entry: Entry) -> str:
    """The boot that it is of."""
    return str(entry["__MONOTONIC_TIMESTAMP"].bootid)


def slept_usec(entry: Entry, system: System) -> int:
    """For how long the machine slept since then, or the clock was set forward; 0 for an entry of another boot."""
    if boot_of(entry) != system.boot_id:
        return 0
    by_the_wall = system.now_usec - when_usec(entry)
    return max(0, by_the_wall - (system.monotonic_usec - monotonic_usec(entry)))
