# SPDX-License-Identifier: MIT
"""An entry: what is written, to whichever place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

FieldValue = str | bytes | list[str | bytes]
OnWritten = Callable[[], None] | None


@dataclass(slots=True)
class Shared:
    """Fields that are the same in many entries. `encoded` is what a writer made of them, for the next time."""

    fields: dict[str, FieldValue]
    encoded: bytes | None = None


@dataclass(slots=True)
class Entry:
    """One entry for a writer.

    `own` has the fields of this entry, `shared` those that it has in common with others; by their full names (MESSAGE,
    PROCWATCH_PID, …), none twice; a list is a repeated field. `realtime_usec` is when it happened (CLOCK_REALTIME).
    `events` is how many of the connector's datagrams this entry stands for in the ledger: 1 for an event's own, for a
    summary all that it tells of, 0 for the daemon's others. `on_written` is called once it has reached its place.
    """

    own: dict[str, FieldValue]
    realtime_usec: int
    events: int = 0
    shared: tuple[Shared, ...] = ()
    on_written: OnWritten = None

    @property
    def fields(self) -> dict[str, FieldValue]:
        """All of them."""
        fields = self.own.copy()
        for shared in self.shared:
            fields |= shared.fields
        return fields
