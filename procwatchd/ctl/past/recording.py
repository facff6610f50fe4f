# SPDX-License-Identifier: MIT
"""What `procwatchd --record` wrote, read again: nothing of it is unknown."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from procwatchd.ctl.past.facts import Facts, ForeignError, command_of, typed_values
from procwatchd.process.fields import EVENTS, FIELDS, Value
from procwatchd.process.model import ANCESTOR_LIMIT
from procwatchd.tape import END, END_LIMIT_BYTES, HEADER, VERSION

# Limits.
STATES_LIMIT = 1 << 22  # at a time: a recording forgets them before, if not in the midst of as many ancestors


def is_recording(line: Mapping[str, Any]) -> bool:
    """Whether a file that begins like this is one. Raises ForeignError for that of another version."""
    if HEADER not in line:
        return False
    if line[HEADER] != VERSION:
        raise ForeignError(f"a recording in another form than this procwatchctl knows, which is {VERSION}")
    return True


@dataclass(frozen=True, slots=True)
class End:
    """How many events a recording has not: there was no room for them, or the daemon never had them.

    `gaps` is how often else something is missing: forks, records of what was started or ended, after an error events.
    """

    unwritten: int
    lost: int
    gaps: int


def read_end(path: str) -> End | None:
    """What a recording says at its end; None where it was cut off, or is in no file that can be read twice."""
    if not os.path.isfile(path):
        return None
    try:
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - END_LIMIT_BYTES))
            line = json.loads(file.read().splitlines()[-1])
        return End(**{field.name: int(line[END][field.name]) for field in fields(End)})
    # Another last line, or a part of it.
    except (OSError, ValueError, LookupError, TypeError):
        return None


class Recording:
    """Takes the lines after the first."""

    def __init__(self) -> None:
        # By their numbers, with whose child each is.
        self._states: dict[int, tuple[Facts, int | None]] = {}

    def take(self, line: Mapping[str, Any]) -> Facts | None:
        """The event of a line; None where it tells of a process, or is the last. Raises ForeignError."""
        try:
            if "record" in line:
                return self._event(line)
            if END not in line:
                self._learn(line)
        except (KeyError, TypeError, AttributeError):
            raise ForeignError("no line of a recording") from None
        return None

    def _learn(self, line: Mapping[str, Any]) -> None:
        number, parent, forked = line["process"], line["parent"], line["forked_usec"]
        if number == 0:
            self._states.clear()
        if len(self._states) >= STATES_LIMIT or not all(
            isinstance(one, int | None) for one in (number, parent, forked)
        ):
            raise TypeError
        if parent is not None and parent not in self._states:
            raise KeyError
        is_host = line["host_mounts"] is True
        values = _values(line["fields"])
        facts = Facts(values, forked_usec=forked, is_whole=True, trusted={"EXE": is_host})
        self._states[number] = (facts, parent)

    def _event(self, line: Mapping[str, Any]) -> Facts:
        process, parent = self._states[line["record"]]
        parents = self._ancestors(parent)
        is_host = process.trusted["EXE"]
        trusted = {
            "EXE": is_host,
            "FILENAME": is_host,
            "PARENT_EXE": bool(parents) and parents[0].trusted["EXE"],
            "TRACER_EXE": line.get("tracer_host_mounts") is True,
            "KILLER_EXE": line.get("killer_host_mounts") is True,
        }
        values = {name: value for name, value in process.values.items() if name != "USER"}
        values |= _values(line["fields"])
        if values.get("EVENT") not in EVENTS:
            raise TypeError
        return Facts(
            values,
            parents=parents,
            trusted=trusted,
            forked_usec=process.forked_usec,
            is_whole=True,
            is_living=line.get("is_living") is True,
            command=command_of(values),
        )

    def _ancestors(self, number: int | None) -> tuple[Facts, ...]:
        found: list[Facts] = []
        while number is not None and len(found) < ANCESTOR_LIMIT:
            facts, number = self._states[number]
            found.append(facts)
        return tuple(found)


def _values(raw: Mapping[str, Any]) -> dict[str, Value]:
    values, hidden = typed_values({name: value for name, value in raw.items() if name in FIELDS})
    if hidden:
        raise TypeError
    return values
