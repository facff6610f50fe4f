# SPDX-License-Identifier: MIT
"""JSON lines that others wrote: what is no object is passed over, counted and named."""

from __future__ import annotations

import json
import select
from collections.abc import Iterator
from typing import Any, BinaryIO

from procwatchd.journal.quote import printable

# Limits.
LINE_LIMIT_BYTES = 16 << 20
SHOWN = 5  # lines that are named

WAIT_SECONDS = 1.0  # for more of a file that goes on, at most
_CHUNK_BYTES = 1 << 16


class Skipped:
    """What of the input was passed over: how much, and of the first few where and why."""

    def __init__(self) -> None:
        self.count = 0
        self.shown: list[str] = []

    def add(self, where: str, why: str) -> None:
        """Note one more."""
        self.count += 1
        if len(self.shown) < SHOWN:
            self.shown.append(printable(f"{where}: {why}"))


def read_objects(file: BinaryIO, name: str, skipped: Skipped) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects in a file, each with its place, as `NAME:LINE`."""
    for number, line in enumerate(_lines(file), 1):
        where = f"{name}:{number}"
        found = _object(line, where, skipped)
        if found is not None:
            yield where, found


def follow_objects(
    file: BinaryIO, name: str, skipped: Skipped
) -> Iterator[tuple[str, dict[str, Any]] | None]:
    """The same, each as soon as it comes; None where there are no more yet."""
    number = 0
    for line in _lines_that_come(file):
        if line is None:
            yield None
            continue
        number += 1
        where = f"{name}:{number}"
        found = _object(line, where, skipped)
        if found is not None:
            yield where, found


def _object(line: bytes, where: str, skipped: Skipped) -> dict[str, Any] | None:
    """What is in a line; None for nothing, or what is passed over."""
    if len(line) > LINE_LIMIT_BYTES:
        skipped.add(where, f"longer than {LINE_LIMIT_BYTES} bytes")
    elif line.strip():
        try:
            found = json.loads(line)
        # Recursion: lists in lists. UnicodeDecodeError is a ValueError.
        except (ValueError, RecursionError):
            skipped.add(where, "not JSON, or cut off")
            return None
        if isinstance(found, dict):
            return found
        skipped.add(where, "not an object")
    return None


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines; of one that is too long one byte more than may be."""
    while line := file.readline(LINE_LIMIT_BYTES + 1):
        yield line
        while len(line) > LINE_LIMIT_BYTES and not line.endswith(b"\n"):
            line = file.readline(LINE_LIMIT_BYTES + 1)
            if not line:
                return


def _lines_that_come(file: BinaryIO) -> Iterator[bytes | None]:
    """The same of a pipe that goes on; None where nothing has come for a while."""
    held = bytearray()
    while True:
        if not select.select([file], [], [], WAIT_SECONDS)[0]:
            yield None
            continue
        # No more than there is: else whoever waits for a line would not see that no more comes.
        chunk = file.read1(_CHUNK_BYTES)  # type: ignore[attr-defined]
        if not chunk:
            break
        begun, *others = chunk.split(b"\n")
        if len(held) <= LINE_LIMIT_BYTES:
            held += begun
        for line in others:
            yield bytes(held) + b"\n"
            held[:] = line
    if held:
        yield bytes(held)
