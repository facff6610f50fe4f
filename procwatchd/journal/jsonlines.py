# SPDX-License-Identifier: MIT
"""Entries as JSON, one object a line, in the form of `journalctl -o json`.

The output is plain ASCII, so that no value can do anything to a terminal, and no reader of lines finds one
too many.
"""

from __future__ import annotations

import json
import re

from procwatchd.journal.entry import Entry, FieldValue
from procwatchd.journal.fdbuffer import FdBuffer

_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
_needs_no_escape = re.compile(r"[ !#-\[\]-~]*").fullmatch
_Json = str | list[int]


class _Openings(dict[str, str]):
    """By name, what ends the value before and opens this one. Names are ours, so they are few."""

    def __missing__(self, name: str) -> str:
        opening = self[name] = f'",{json.dumps(name)}:"'
        return opening


_openings = _Openings()


def json_value(value: str | bytes) -> _Json:
    """A string, or for what is not UTF-8 an array of byte values."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "replace").decode()
    try:
        return value.decode()
    except UnicodeDecodeError:
        return list(value)


def _json_fields(fields: dict[str, FieldValue]) -> dict[str, _Json | list[_Json]]:
    """The fields as the journal gives them back: a list of one is not repeated, an empty one is absent."""
    result: dict[str, _Json | list[_Json]] = {}
    for name, value in fields.items():
        if not isinstance(value, list):
            result[name] = json_value(value)
        elif len(value) == 1:
            result[name] = json_value(value[0])
        elif value:
            result[name] = [json_value(one) for one in value]
    return result


def _encode_each(fields: dict[str, FieldValue]) -> str:
    """What `encode_fields` does, for any value."""
    values = _json_fields(fields)
    return f'",{_encode(values)[1:]}\n' if values else '"}\n'


def encode_fields(fields: dict[str, FieldValue]) -> str:
    """The rest of a line from within an open string on: its end, then the fields."""
    parts = []
    openings = _openings
    try:
        for name, value in fields.items():
            parts.append(openings[name])
            # A list has no decode, and takes the long way like all that is not plain.
            parts.append(value if value.__class__ is str else value.decode())  # type: ignore[union-attr]
    except (AttributeError, UnicodeDecodeError):
        return _encode_each(fields)
    # Nearly always nothing needs an escape: one look at all values at once costs half of what the encoder does.
    if _needs_no_escape("".join(parts[1::2])) is None:
        return _encode_each(fields)
    parts.append('"}\n')
    return "".join(parts)


class JsonWriter(FdBuffer):
    """Writes entries to `fd` as JSON lines. `boot_id` is 32 hexadecimal digits. One thread uses it."""

    def __init__(self, fd: int, *, boot_id: str, hostname: str) -> None:
        super().__init__(fd)
        constant = _encode({"_BOOT_ID": boot_id, "_HOSTNAME": hostname})
        # From within the string of the time to within that of the host.
        self._constant = '",' + constant[1:-2]

    def write(self, entry: Entry) -> None:
        """Put the entry into the buffer."""
        rest = encode_fields(entry.fields)
        line = f'{{"__REALTIME_TIMESTAMP":"{entry.realtime_usec}{self._constant}{rest}'
        self.add(line.encode(), entry.events, entry.realtime_usec, entry.on_written)
