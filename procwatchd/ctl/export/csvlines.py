# SPDX-License-Identifier: MIT
"""Entries as a table: comma-separated values, a line for each event.

Facts:
- Lines end with CR LF; a value with a comma, a quote or a line break is in quotes [RFC 4180].
- Spreadsheets take a cell that begins with = + - @, a tab or a CR for a formula, and run it [OWASP, CSV Injection];
  2-25 for a date, 12e5 for a number. A quote in front makes a text of it; where one is in front already, there is
  another, so that a program that reads it is right to take one off.
- Where a comma is for fractions they begin a new cell at each semicolon [the same].
"""

from __future__ import annotations

import csv
import io
import re

from procwatchd.ctl.export.typed import LeftOutError, event_usec, field_of_journald, iso, texts
from procwatchd.ctl.past.entries import Entry
from procwatchd.journal.kinds import PREFIX
from procwatchd.journal.quote import printable
from procwatchd.process.fields import EVENTS, FIELDS
from procwatchd.rules.names import key_of

_FIELDS = (
    *FIELDS,
    *("ARGV_TRUNCATED", "ARGV_BYTES", "RULE", "TAGS"),
    *("SIGMA_ID", "SIGMA_TITLE", "SIGMA_LEVEL", "SIGMA_TAGS", "SIGMA_AUTHOR"),
)
_OF_JOURNALD = {"host": "_HOSTNAME", "boot-id": "_BOOT_ID", "priority": "PRIORITY", "message": "MESSAGE"}
COLUMNS = ("time", *_OF_JOURNALD, *map(key_of, _FIELDS))

# Tabs and CRs are escaped by then.
_is_guarded = re.compile(r"[=+\-@']|(?:[0-9]{1,2}-[0-9]{1,4}|[0-9]+[eE][0-9]+)\Z").match
_BEFORE_FORMULA = re.compile(r';(?=[ "]*[=+\-@])')


def csv_header() -> str:
    """The names of the columns, as filters have them."""
    return _line(list(COLUMNS))


def csv_line(entry: Entry) -> str:
    """The line that an entry is. Raises LeftOutError for what is about no event."""
    if entry.get(PREFIX + "EVENT") not in EVENTS:
        raise LeftOutError("of the daemon's own")
    cells = [iso(event_usec(entry))]
    cells += [_cell(field_of_journald(entry, name) or "") for name in _OF_JOURNALD.values()]
    # Most are not there.
    cells += [_cell("; ".join(texts(entry, name))) if PREFIX + name in entry else "" for name in _FIELDS]
    return _line(cells)


def _cell(text: str) -> str:
    shown = _BEFORE_FORMULA.sub(r"\\x3b", printable(text))
    return f"'{shown}" if _is_guarded(shown) else shown


def _line(cells: list[str]) -> str:
    written = io.StringIO()
    csv.writer(written).writerow(cells)
    return written.getvalue()
