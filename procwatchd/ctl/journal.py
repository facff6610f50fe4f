# SPDX-License-Identifier: MIT
"""Entries from the journal: those alone that the daemon sent.

Facts:
- Fields that begin with `_` are journald's own word on the sender; all others anybody can send
  [systemd.journal-fields(7)].
- sd-journal passes over files that it may not read: without any it is as if nothing was there. The system's belong to
  the group systemd-journal [systemd-journald.service(8)].
- Fields above the data threshold, 64 KiB, are cut without a word [sd_journal_set_data_threshold(3)].
"""

from __future__ import annotations

import glob
import grp
import os
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any

from procwatchd.ctl.errors import CtlError
from procwatchd.ctl.facts import UNIT
from procwatchd.journal.kinds import PREFIX

FILES = ("/var/log/journal/*/system.journal", "/run/log/journal/*/system.journal")
DIRECTORIES = ("/var/log/journal", "/run/log/journal")

THRESHOLD_BYTES = 1 << 20


class Journal:
    """The daemon's entries, of this machine or in a directory of journals. Raises CtlError where none may be read.

    `matches` are fields and the values that they must have.
    """

    def __init__(self, matches: Mapping[str, str], directory: str | None = None) -> None:
        why = why_unreadable() if directory is None else ""
        if why:
            raise CtlError(why)
        from systemd import journal

        try:
            self._reader = journal.Reader(path=directory, converters={"__REALTIME_TIMESTAMP": int})
        except OSError as error:
            raise CtlError(f"cannot read the journal in {directory}: {error.strerror}") from None
        self._reader.data_threshold = THRESHOLD_BYTES
        self._reader.add_match(_SYSTEMD_UNIT=UNIT)
        for name, value in matches.items():
            self._reader.add_match(**{PREFIX + name: value})

    def between(self, since_usec: int | None, until_usec: int | None) -> Iterator[dict[str, Any]]:
        """Those of a time, the oldest first."""
        if since_usec is None:
            self._reader.seek_head()
        else:
            self._reader.seek_realtime(since_usec)
        while entry := self._reader.get_next():
            if until_usec is not None and entry["__REALTIME_TIMESTAMP"] > until_usec:
                return
            yield entry

    def latest(self) -> Iterator[dict[str, Any]]:
        """All of them, the newest first."""
        self._reader.seek_tail()
        while entry := self._reader.get_previous():
            yield entry

    def at(self, cursor: str) -> dict[str, Any]:
        """The one at a cursor. Raises CtlError where there is none."""
        try:
            self._reader.seek_cursor(cursor)
            entry: dict[str, Any] = self._reader.get_next()
            found = bool(entry) and self._reader.test_cursor(cursor)
        except (OSError, ValueError):
            raise CtlError(f"this is no cursor: {cursor}") from None
        if not found:
            raise CtlError(f"no entry of {UNIT} has this cursor")
        return entry


def why_unreadable(files: tuple[str, ...] = FILES, directories: tuple[str, ...] = DIRECTORIES) -> str:
    """Why nobody like us can read the system's journal; "" where one can."""
    found = [path for pattern in files for path in glob.glob(pattern)]
    if any(os.access(path, os.R_OK) for path in found):
        return ""
    hidden = [path for path in directories if os.path.isdir(path) and not os.access(path, os.R_OK | os.X_OK)]
    for path in found + hidden:
        return f"the journal cannot be read: {path} is for root and the group {_group_of(path)}, and you are in neither"
    return (
        "there is no journal: neither /var/log/journal nor /run/log/journal has one (--file reads JSON lines)"
    )


def _group_of(path: str) -> str:
    gid = os.stat(path).st_gid
    try:
        name = grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
    return "systemd-journal" if name == "root" else name


def parse_time(text: str) -> int:
    """A time as systemd understands it (`-1h`, `yesterday`, `2026-11-21 15:00`), in µs. Raises CtlError."""
    command = ["systemd-analyze", "timestamp", "--", text]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}, check=False
        )
    except OSError as error:
        raise CtlError(f"{command[0]} cannot be run, which knows what a time is: {error.strerror}") from None
    for line in done.stdout.splitlines():
        name, _, value = line.strip().partition(": ")
        if name == "UNIX seconds" and value.startswith("@"):
            seconds, _, fraction = value[1:].partition(".")
            return int(seconds) * 1_000_000 + int(fraction.ljust(6, "0")[:6])
    raise CtlError(f"{text!r} is no time as systemd.time(7) has it")
