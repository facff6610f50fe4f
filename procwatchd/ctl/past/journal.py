# SPDX-License-Identifier: MIT
"""Entries from the journal: those alone that the daemon sent.

Facts:
- Fields that begin with `_` are journald's own word on the sender; all others anybody can send
  [systemd.journal-fields(7)].
- sd-journal passes over files that it may not read: without any it is as if nothing was there. The system's belong to
  the group systemd-journal [systemd-journald.service(8)].
- After seek_tail nothing comes before a look backwards has found something [sd_journal_seek_tail(3)]: who waits for the
  first entry seeks by time.
- Fields above the data threshold, 64 KiB, are cut without a word [sd_journal_set_data_threshold(3)].
"""

from __future__ import annotations

import glob
import grp
import operator
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from procwatchd.ctl.errors import CtlError
from procwatchd.ctl.past.facts import UNIT
from procwatchd.journal.kinds import PREFIX

FILES = ("/var/log/journal/*/system.journal", "/run/log/journal/*/system.journal")
DIRECTORIES = ("/var/log/journal", "/run/log/journal")

THRESHOLD_BYTES = 1 << 20
FOLLOW_SECONDS = 1.0  # how long is waited for more, at most

# As journalctl's JSON has them: systemd-python would make more of them, which takes its time.
_AS_TEXT = (
    "MESSAGE_ID",
    "PRIORITY",
    "_BOOT_ID",
    "_GID",
    "_MACHINE_ID",
    "_PID",
    "_SOURCE_REALTIME_TIMESTAMP",
    "_UID",
)


class Journal:
    """The daemon's entries, of this machine or in a directory of journals. Raises CtlError where none may be read.

    `matches` are fields without their prefix and the values of which each must have one: the journal's index finds
    them. `is_merged`: those of other machines as well that this one's journal has.
    """

    def __init__(
        self,
        matches: Mapping[str, Sequence[str]],
        directory: str | None = None,
        *,
        is_merged: bool = False,
    ) -> None:
        why = why_unreadable() if directory is None else _why_empty(directory)
        if why:
            raise CtlError(why)
        from systemd import journal

        flags = 0 if is_merged or directory is not None else journal.LOCAL_ONLY
        try:
            self._reader = journal.Reader(
                flags, path=directory, converters=dict.fromkeys(_AS_TEXT, bytes.decode)
            )
        except OSError as error:
            raise CtlError(f"cannot read the journal in {directory}: {error.strerror}") from None
        self._reader.converters["__REALTIME_TIMESTAMP"] = int
        # The time, without its boot.
        self._reader.converters["__MONOTONIC_TIMESTAMP"] = operator.itemgetter(0)
        self._reader.data_threshold = THRESHOLD_BYTES
        self._reader.add_match(_SYSTEMD_UNIT=UNIT)
        for name, values in matches.items():
            for value in values:
                self._reader.add_match(f"{PREFIX}{name}={value}")

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

    def follow(self, since_usec: int, after: str | None = None) -> Iterator[dict[str, Any] | None]:
        """Those since then, or after a cursor, and all that come, without end; None whenever there are no more yet."""
        if after is None:
            self._reader.seek_realtime(since_usec)
        else:
            self._reader.seek_cursor(after)
            self._reader.get_next()  # that of the cursor
        while True:
            while entry := self._reader.get_next():
                yield entry
            yield None
            self._reader.wait(FOLLOW_SECONDS)

    def hosts(self) -> set[str]:
        """Of which machines there are entries, of whatever sender."""
        return set(self._reader.query_unique("_HOSTNAME"))

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


def _why_empty(directory: str) -> str:
    """Why nothing can be read from a directory of journals; "" where something can."""
    found = [
        path
        for pattern in ("*.journal", "*/*.journal")
        for path in glob.glob(f"{glob.escape(directory)}/{pattern}")
    ]
    if any(os.access(path, os.R_OK) for path in found):
        return ""
    if found:
        return f"the journals in {directory} cannot be read: they are for root and the group {_group_of(found[0])}"
    why = "" if os.path.isdir(directory) else ", which is no directory that can be read"
    return f"there is no journal in {directory}{why}"


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
    raise CtlError(f"{text!r} is no time as systemd.time(7) has it, such as -1h or '2026-11-21 17:53'")
