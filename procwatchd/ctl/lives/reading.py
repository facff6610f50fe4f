# SPDX-License-Identifier: MIT
"""What `tree` and `plot` read: the entries that were asked for, as a forest; and what the daemon says is missing."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator

from procwatchd.ctl.lives.forest import Forest, Node
from procwatchd.ctl.lives.lives import Life
from procwatchd.ctl.lives.roots import IsRoot, find_roots
from procwatchd.ctl.past.absent import KINDS, Absent
from procwatchd.ctl.past.entries import Entries, Entry, realtime_usec
from procwatchd.ctl.past.facts import kind_of
from procwatchd.ctl.past.filters import Filter, parse_filter
from procwatchd.ctl.past.jsonlines import Skipped
from procwatchd.ctl.past.progress import with_progress
from procwatchd.journal.kinds import PREFIX

DEFAULT_USEC = 3600 * 1_000_000  # of the journal, where nobody says from when on


class Reading:
    """Reads what the options ask for into a forest; says how much there was, of what time, and what is not in it.

    `keep` gets each life that was asked for, before it has its place in the forest.
    """

    def __init__(
        self,
        options: argparse.Namespace,
        absent: Absent,
        keep: Callable[[Life], None] = lambda _life: None,
        *,
        is_folding: bool = True,
    ) -> None:
        roots = find_roots(options)
        self._options = options
        self._wanted = parse_filter(options.filters)
        # What the index finds, and no more: the rest is told apart here, where progress is seen.
        self._entries = Entries(options, Filter(self._wanted.in_index))
        self.is_last_hour = False
        if options.file is None and self._entries.since_usec is None:
            self._entries.since_usec = roots.since_usec
            if roots.since_usec is None:
                self._entries.since_usec = (self._entries.until_usec or time.time_ns() // 1000) - DEFAULT_USEC
                self.is_last_hour = options.until is None
        self.count = 0
        self.since_usec = self._entries.since_usec
        self.until_usec = self._entries.until_usec
        self.first_usec: int | None = None
        self.last_usec: int | None = None
        self.absent = absent
        self.skipped: Skipped = self._entries.skipped
        self.forest = Forest(is_folding=is_folding, is_wanted=_and_keep(roots.is_wanted, keep))
        self.boots: list[Node] = []

    @property
    def unknown(self) -> int:
        """How many entries were left out as they do not hold what the filter asks for."""
        return self._wanted.unknown

    @property
    def has_ends(self) -> bool:
        """Whether who has no end lives: a filter may have left it out."""
        return not self._options.filters

    @property
    def not_running_usec(self) -> int:
        """For how long in that time nobody listened; of this machine's journal it is up to now."""
        options = self._options
        is_to_now = options.file is None and options.directory is None and options.until is None
        until_usec = time.time_ns() // 1000 if is_to_now else self.until_usec
        return self.absent.not_running_usec(self.since_usec, until_usec)

    def read(self) -> None:
        """Read all."""
        for entry in self._read():
            self.forest.take(entry)
        self.boots = self.forest.finish()
        self.since_usec = self.first_usec if self.since_usec is None else self.since_usec
        self.until_usec = self.last_usec if self.until_usec is None else self.until_usec

    def _read(self) -> Iterator[Entry]:
        if self._options.file is None and self._options.filters:
            # The journal gives what is asked for alone, so what tells of others is read before.
            telling = Entries(self._options, Filter({"EVENT": KINDS}, frozenset(KINDS)))
            telling.since_usec = self.since_usec
            for entry in telling:
                self.absent.take(kind_of(entry), entry)
        is_telling = self._options.file is not None or not self._options.filters
        for entry in with_progress(self._entries):
            self._count(entry)
            kind = entry[PREFIX + "EVENT"]
            if is_telling and kind in KINDS:
                self.absent.take(kind, entry)
            if self._wanted.holds(entry):
                yield entry

    def _count(self, entry: Entry) -> None:
        self.count += 1
        when = realtime_usec(entry)
        if when is not None:
            self.first_usec = when if self.first_usec is None else min(when, self.first_usec)
            self.last_usec = when if self.last_usec is None else max(when, self.last_usec)


def _and_keep(is_wanted: IsRoot, keep: Callable[[Life], None]) -> IsRoot:
    def is_kept(life: Life) -> bool:
        is_one = is_wanted(life)
        if is_one:
            keep(life)
        return is_one

    return is_kept
