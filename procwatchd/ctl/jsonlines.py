# SPDX-License-Identifier: MIT
"""JSON lines that others wrote: what is no object is passed over, counted and named."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, BinaryIO

from procwatchd.journal.quote import printable

# Limits.
LINE_LIMIT_BYTES = 16 << 20
SHOWN = 5  # lines that are named


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
        if len(line) > LINE_LIMIT_BYTES:
            skipped.add(where, f"longer than {LINE_LIMIT_BYTES} bytes")
        elif line.strip():
            try:
                found = json.loads(line)
            # Recursion: lists in lists. UnicodeDecodeError is a ValueError.
            except (ValueError, RecursionError):
                skipped.add(where, "not JSON, or cut off")
                continue
            if isinstance(found, dict):
                yield where, found
            else:
                skipped.add(where, "not an object")


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines; of one that is too long one byte more than may be."""
    while line := file.readline(LINE_LIMIT_BYTES + 1):
        yield line
        while len(line) > LINE_LIMIT_BYTES and not line.endswith(b"\n"):
            line = file.readline(LINE_LIMIT_BYTES + 1)
            if not line:
                return
