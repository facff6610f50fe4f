# SPDX-License-Identifier: MIT
"""All that rules look at, written to a file: with that other rules can be tried, and decide as the daemon would.

What is written is as it came, secrets and all, so that nobody but who starts the daemon may read it. One JSON object a
line: first `HEADER`, then processes and records as they come up, last what is missing. Of a process each state is
written once, after that of its parent, and is referred to by its number; where the numbers begin anew, what they meant
before is forgotten. Values are in the form of `journalctl -o json`.
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import Any

from procwatchd.journal.jsonlines import json_value
from procwatchd.process.fields import FIELDS, Field, Value
from procwatchd.process.model import Process, Record

# Limits.
BYTES_LIMIT = 1 << 30
PROCESSES_LIMIT = 4096  # states that are referred to by number
BUFFER_LIMIT_BYTES = 1 << 18  # that wait to be written
END_LIMIT_BYTES = 128  # of the last line, for which there is always room

HEADER = "procwatchd-recording"
END = "end"
VERSION = 1

_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
_OF_PROCESS = tuple(field for field in FIELDS.values() if field.of_process is not None)
# The user's name is looked up meanwhile: rules see it where it is known by then.
_OF_EVENT = tuple(field for field in FIELDS.values() if field.of_process is None or field.name == "USER")


class TapeError(Exception):
    """No such file can be made."""


class Tape:
    """A new file to which records are written, until it has `limit_bytes`. One thread uses it.

    `unwritten` is how many records it has not, as it was full or the disk was: nothing follows on these. Raises
    TapeError where there is a file of that name already, or none can be made.
    """

    def __init__(self, path: str, limit_bytes: int = BYTES_LIMIT) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        try:
            self._fd = os.open(path, flags, 0o600)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            why = getattr(error, "strerror", None) or error
            raise TapeError(f"cannot record to a new file {path}: {why}") from None
        self._left_bytes = limit_bytes - END_LIMIT_BYTES
        self._numbers: dict[Process, int] = {}
        self.unwritten = 0
        self._buffer = bytearray()
        self._buffered = 0  # records
        self._written_bytes = 0
        self._add([{HEADER: VERSION}])
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
        if not self._add([*lines, line]):
            # What comes later would refer to what is missing.
            self._left_bytes = 0
            self.unwritten += 1
            return
        self._buffered += 1
        if len(self._buffer) >= BUFFER_LIMIT_BYTES:
            self.flush()

    def flush(self) -> None:
        """Have the file what was written, or none of it."""
        data = memoryview(bytes(self._buffer))
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._written_bytes)
            self._left_bytes = 0
            self.unwritten += self._buffered
        else:
            self._written_bytes += len(self._buffer)
        self._buffer.clear()
        self._buffered = 0

    def end(self, *, lost: int, gaps: int) -> None:
        """Write last what is missing: what is unwritten, how many events were `lost` before they came here.

        `gaps` is how often anything else was missing, for which an event is not here, or not all that belongs to it.
        """
        self.flush()
        self._buffer += _as_bytes([{END: {"unwritten": self.unwritten, "lost": lost, "gaps": gaps}}])
        self.flush()

    def close(self) -> None:
        """Close the file; without an end it does not say that it is whole."""
        self.flush()
        os.close(self._fd)

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

    def _add(self, lines: list[dict[str, Any]]) -> bool:
        """Take lines that belong together; False where there is no room for all of them."""
        data = _as_bytes(lines)
        if len(data) > self._left_bytes:
            return False
        self._buffer += data
        self._left_bytes -= len(data)
        return True


def _as_bytes(lines: list[dict[str, Any]]) -> bytes:
    return "".join([_encode(line) + "\n" for line in lines]).encode()


def _values(found: list[tuple[Field, Value]]) -> dict[str, str | list[int]]:
    """Those that there are, by their fields' names."""
    return {
        field.name: json_value(str(value) if isinstance(value, int) else value)
        for field, value in found
        if value is not None
    }
