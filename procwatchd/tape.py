# SPDX-License-Identifier: MIT
"""All that rules look at, written to a file: with that other rules can be tried, and decide as the daemon would.

What is written is as it came, secrets and all, so that nobody but who starts the daemon may read it. One JSON object a
line: first `HEADER`, then processes and records as they come up. Of a process each state is written once, after that
of its parent, and is referred to by its number; where the numbers begin anew, what they meant before is forgotten.
Values are in the form of `journalctl -o json`.
"""

from __future__ import annotations

import json
import os
from typing import Any

from procwatchd.journal.jsonlines import json_value
from procwatchd.process.fields import FIELDS, Field, Value
from procwatchd.process.model import Process, Record

# Limits.
BYTES_LIMIT = 1 << 30
PROCESSES_LIMIT = 4096  # states that are referred to by number

HEADER = "procwatchd-recording"
VERSION = 1

_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
_OF_PROCESS = tuple(field for field in FIELDS.values() if field.of_process is not None)
# The user's name is looked up meanwhile: rules see it where it is known by then.
_OF_EVENT = tuple(field for field in FIELDS.values() if field.of_process is None or field.name == "USER")


class TapeError(Exception):
    """No such file can be made."""


class Tape:
    """A new file to which records are written, until it has `limit_bytes`. One thread uses it.

    `unwritten` is how many records it has not, as it was full or the disk was. Raises TapeError where there is a file
    of that name already, or none can be made.
    """

    def __init__(self, path: str, limit_bytes: int = BYTES_LIMIT) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            self._file = open(os.open(path, flags, 0o600), "wb")  # noqa: SIM115  open until close
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            why = getattr(error, "strerror", None) or error
            raise TapeError(f"cannot record to a new file {path}: {why}") from None
        self._left_bytes = limit_bytes
        self._numbers: dict[Process, int] = {}
        self.unwritten = 0
        self._write([{HEADER: VERSION}])
        self.flush()

    def write(self, record: Record, *, is_living: bool = False) -> None:
        """Write a record; `is_living`: no event, but a process that lived when the daemon began."""
        if not self._left_bytes:
            self.unwritten += 1
            return
        if len(self._numbers) >= PROCESSES_LIMIT:
            self._numbers.clear()
        lines = self._new_processes(record.process)
        line: dict[str, Any] = {
            "record": self._numbers[record.process],
            "fields": _values([(field, field.of_record(record)) for field in _OF_EVENT]),
        }
        if is_living:
            line["is_living"] = True
        if record.tracer is not None:
            line["tracer_host_mounts"] = record.tracer.context.host_mounts
        if record.killer is not None:
            line["killer_host_mounts"] = record.killer.host_mounts
        self._write([*lines, line])

    def flush(self) -> None:
        """Have the file what was written."""
        try:
            self._file.flush()
        except OSError:
            self._left_bytes = 0  # half a line may be there: nothing can follow

    def close(self) -> None:
        """End the file; what cannot be written any more is left out."""
        try:
            self._file.close()
        except OSError:
            pass

    def _new_processes(self, process: Process) -> list[dict[str, Any]]:
        """Lines for a process and its ancestors, as far as they have no number yet."""
        new: list[Process] = []
        state: Process | None = process
        while state is not None and state not in self._numbers:
            new.append(state)
            state = state.parent
        lines = []
        for state in reversed(new):
            self._numbers[state] = len(self._numbers)
            lines.append(self._process_line(state))
        return lines

    def _process_line(self, process: Process) -> dict[str, Any]:
        parent, forked_ns = process.parent, process.forked_ns
        return {
            "process": self._numbers[process],
            "parent": None if parent is None else self._numbers[parent],
            "forked_usec": None if forked_ns is None else forked_ns // 1000,
            "host_mounts": process.context.host_mounts,
            "fields": _values(
                [(field, field.of_process(process)) for field in _OF_PROCESS if field.of_process]
            ),
        }

    def _write(self, lines: list[dict[str, Any]]) -> None:
        """Write lines that belong together, or none of them."""
        data = "".join([_encode(line) + "\n" for line in lines]).encode()
        if len(data) > self._left_bytes:
            # What comes later would refer to what is missing.
            self._left_bytes = 0
            self.unwritten += 1
            return
        try:
            self._file.write(data)
        except OSError:
            self._left_bytes = 0
            self.unwritten += 1
        else:
            self._left_bytes -= len(data)


def _values(found: list[tuple[Field, Value]]) -> dict[str, str | list[int]]:
    """Those that there are, by their fields' names."""
    return {
        field.name: json_value(str(value) if isinstance(value, int) else value)
        for field, value in found
        if value is not None
    }
