# SPDX-License-Identifier: MIT
"""How far a long reading is, for who waits at a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

from rich.console import Console

from procwatchd.ctl.past.entries import Entry, realtime_usec

SILENT_SECONDS = 0.5  # what takes no longer needs no words
ENTRIES = 4096  # between looks at the clock


def with_progress(entries: Iterable[Entry]) -> Iterator[Entry]:
    """The same entries; on standard error, where that is a terminal, how many there were and of when they are."""
    console = Console(stderr=True)
    if not console.is_terminal:
        for entry in entries:  # which goes on where this one ends
            yield entry
        return
    begun = time.monotonic()
    status = console.status("")
    try:
        for at, entry in enumerate(entries, 1):
            yield entry
            if at % ENTRIES == 0 and time.monotonic() - begun > SILENT_SECONDS:
                status.start()
                status.update(f"{at} entries read{_when(entry)}")
    finally:
        status.stop()


def search(entries: Iterable[Entry], is_wanted: Callable[[Entry], bool]) -> Iterator[Entry]:
    """Those that are wanted, with progress up to the first."""
    rest = iter(entries)
    for entry in with_progress(rest):
        if is_wanted(entry):
            yield entry
            break
    yield from filter(is_wanted, rest)


def _when(entry: Entry) -> str:
    usec = realtime_usec(entry)
    return "" if usec is None else time.strftime(", up to %b %d %H:%M:%S", time.localtime(usec // 1_000_000))
