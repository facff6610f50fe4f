# SPDX-License-Identifier: MIT
"""An entry: what is written, to whichever place."""

from __future__ import annotations

from dataclasses import dataclass

FieldValue = str | bytes | list[str | bytes]


@dataclass(slots=True)
class Entry:
    """One entry for a writer.

    `fields` in the order to write them, by their full names (MESSAGE, PROCWATCH_PID, …); a list is a
    repeated field. `realtime_usec` is when it happened (CLOCK_REALTIME). `events` is how many of the
    connector's datagrams this entry stands for in the ledger: 1 for an event's own, 0 for the daemon's.
    """

    fields: dict[str, FieldValue]
    realtime_usec: int
    events: int = 0
