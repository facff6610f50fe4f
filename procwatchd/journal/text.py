# SPDX-License-Identifier: MIT
"""Entries as text for people, one line each, in the look of journalctl: `Nov 21 03:01:02 MESSAGE`."""

from __future__ import annotations

import os
import time

from procwatchd.journal.entry import Entry, FieldValue
from procwatchd.journal.fdbuffer import FdBuffer
from procwatchd.journal.quote import printable

_RESET = "\x1b[0m"
_DIM = "\x1b[2m"
_GREEN = "\x1b[32m"
_RED = "\x1b[31m"
_YELLOW = "\x1b[33m"
_BOLD_RED = "\x1b[1;31m"

_KIND_STYLES = {
    "exec": _GREEN,
    "exit": _DIM,
    "uid": _YELLOW,
    "gid": _YELLOW,
    "ptrace": _YELLOW,
    "loss": _BOLD_RED,
    "blind": _BOLD_RED,
}
_PRIORITY_STYLES = {**dict.fromkeys("0123", _BOLD_RED), "4": _YELLOW}


def _text(value: FieldValue) -> str:
    """A field's value as one printable line."""
    return " ".join(map(printable, value)) if isinstance(value, list) else printable(value)


def coloured(stamp: str, message: str, *, event: str, priority: str, has_failed: bool) -> str:
    """A line of clean text in colours: by the kind of entry in the first word, by the priority in the rest."""
    word, space, rest = message.partition(" ")
    style = _PRIORITY_STYLES.get(priority, "")
    kind_style = (_RED if event == "exit" and has_failed else _KIND_STYLES.get(event, "")) or style
    if kind_style:
        word = f"{kind_style}{word}{_RESET}"
    if style and rest:
        rest = f"{style}{rest}{_RESET}"
    return f"{_DIM}{stamp}{_RESET} {word}{space}{rest}"


def _has_failed(fields: dict[str, FieldValue]) -> bool:
    return "PROCWATCH_EXIT_SIGNAL" in fields or _text(fields.get("PROCWATCH_EXIT_CODE", "0")) != "0"


def _wants_colour(fd: int) -> bool:
    """Whether `fd` is a terminal that shows colours, and nobody asked for none."""
    return os.isatty(fd) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


class TextWriter(FdBuffer):
    """Writes entries to `fd` as lines of text. `colour`: None for where a terminal shows it.

    Times are in the local zone. One thread uses it.
    """

    def __init__(self, fd: int, *, colour: bool | None = None) -> None:
        super().__init__(fd)
        self._colour = _wants_colour(fd) if colour is None else colour
        self._second = -1
        self._stamp = ""

    def write(self, entry: Entry) -> None:
        """Put the entry's line into the buffer."""
        second = entry.realtime_usec // 1_000_000
        if second != self._second:
            self._second = second
            self._stamp = time.strftime("%b %d %H:%M:%S", time.localtime(second))
        # Messages are clean already; a terminal is worth a second look, which is cheap.
        message = _text(entry.fields.get("MESSAGE", ""))
        line = self._coloured(message, entry.fields) if self._colour else f"{self._stamp} {message}"
        self.add(f"{line}\n".encode(), entry.events, entry.realtime_usec, entry.on_written)

    def _coloured(self, message: str, fields: dict[str, FieldValue]) -> str:
        return coloured(
            self._stamp,
            message,
            event=_text(fields.get("PROCWATCH_EVENT", "")),
            priority=_text(fields.get("PRIORITY", "")),
            has_failed=_has_failed(fields),
        )
