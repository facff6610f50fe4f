# SPDX-License-Identifier: MIT
"""What every writer promises, and how a writer keeps account of what it could not write.

At any time written_events + held_events + unwritten_events is the number of events that `write` was given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from procwatchd.journal.entry import Entry


@dataclass(frozen=True, slots=True)
class Loss:
    """What was not written: entries, the events they stood for, and from when to when they were (wall clock)."""

    entries: int
    events: int
    since_usec: int
    until_usec: int


class Writer(Protocol):
    """Takes entries and brings them to their place, in order. One thread uses it.

    `written_events` and `unwritten_events` only grow; `held_events` is what is taken and not yet written. An entry's
    `on_written` is called when its events become written ones.
    """

    @property
    def broken(self) -> bool:
        """Whether nothing can be written any more, since there is nobody to read it."""

    @property
    def written_events(self) -> int:
        """The events of all entries that reached their place."""

    @property
    def held_events(self) -> int:
        """The events of the entries that wait for their place to take them."""

    @property
    def unwritten_events(self) -> int:
        """The events of all entries that were given up."""

    def write(self, entry: Entry) -> None:
        """Write the entry, or hold it, or count it as lost; never wait, never raise for what may happen."""

    def flush(self) -> None:
        """Write of what is held as much as can be written at once."""

    def wait(self, timeout_seconds: float) -> bool:
        """Write what is held, at most for so long; True when nothing is held any more."""

    def take_loss(self) -> Loss | None:
        """What was lost since this was last asked; None where nothing was."""

    def close(self) -> None:
        """End. What is still held is counted as lost."""


class LossCount:
    """Counts what is lost: `events` and `entries` for ever, and the loss since it was last taken."""

    __slots__ = ("_since_usec", "_taken_entries", "_taken_events", "_until_usec", "entries", "events")

    def __init__(self) -> None:
        self.entries = 0
        self.events = 0
        self._taken_entries = 0
        self._taken_events = 0
        self._since_usec = 0
        self._until_usec = 0

    def add(self, events: int, realtime_usec: int) -> None:
        """Count one entry."""
        if self.entries == self._taken_entries:
            self._since_usec = self._until_usec = realtime_usec
        else:
            # Entries may come a little out of the order of their times.
            self._since_usec = min(self._since_usec, realtime_usec)
            self._until_usec = max(self._until_usec, realtime_usec)
        self.entries += 1
        self.events += events

    def take(self) -> Loss | None:
        """What was counted since the last call."""
        entries = self.entries - self._taken_entries
        if not entries:
            return None
        loss = Loss(entries, self.events - self._taken_events, self._since_usec, self._until_usec)
        self._taken_entries = self.entries
        self._taken_events = self.events
        return loss
