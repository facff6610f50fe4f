# SPDX-License-Identifier: MIT
"""What of an entry other programs' forms have in common: its values with types, its time, who it is about.

A PROCESS_ID is one life of one boot [procwatchd.fields(7)]: with the boot it names a process among those of all hosts.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Container
from datetime import UTC, datetime
from typing import TypeAlias

from procwatchd.ctl.past.entries import Entry, kernel_usec, number, number_of, realtime_usec
from procwatchd.ctl.past.facts import ALWAYS
from procwatchd.ctl.past.unquote import is_cut, words_of
from procwatchd.journal.kinds import PREFIX
from procwatchd.process.fields import EVENTS, FIELDS, Kind
from procwatchd.rules.names import SIGMA

Typed: TypeAlias = str | int | list[str]

_NUMBERS = frozenset(name for name, field in FIELDS.items() if field.kind is Kind.NUMBER) | {
    *("ARGV_TRUNCATED", "ARGV_BYTES")
}
# Of the daemon's own entries; all other values in these are numbers.
_OWN_TEXTS = frozenset({"EVENT", "VERSION", "KEPT", "LOST_WHERE", "CPUS", "GROUP", "SAMPLE", "RULE"})
_NAME = re.compile(r"[A-Z0-9_]{1,64}")
_SIGMA_LEVELS = ("informational", "low", "medium", "high", "critical")


class LeftOutError(Exception):
    """A form has no place for an entry; the text says why."""


def exact(raw: object) -> str | None:
    r"""A text as it is, with `\xff` for what is not UTF-8; None for what is no text."""
    if isinstance(raw, list):
        try:
            raw = bytes(raw)
        except (TypeError, ValueError):
            return None
    if isinstance(raw, bytes):
        return raw.decode("utf-8", "backslashreplace")
    if not isinstance(raw, str):
        return None
    return raw if raw.isascii() else raw.encode("utf-8", "backslashreplace").decode()


def text(entry: Entry, name: str) -> str | None:
    """The value of PROCWATCH_`name`, the first where there are more."""
    raw = entry.get(PREFIX + name)
    if raw is None or (isinstance(raw, str) and raw.isascii()):
        return raw
    found = texts(entry, name)
    return found[0] if found else None


def texts(entry: Entry, name: str) -> list[str]:
    """All values of PROCWATCH_`name`."""
    raw = entry.get(PREFIX + name)
    is_repeated = isinstance(raw, list) and not all(isinstance(one, int) for one in raw)
    found = [exact(one) for one in raw] if is_repeated and isinstance(raw, list) else [exact(raw)]
    return [one for one in found if one is not None]


def field_of_journald(entry: Entry, name: str) -> str | None:
    """The value of a field that is not procwatchd's, such as _HOSTNAME."""
    raw = entry.get(name)
    return exact(raw) or None


def arguments(entry: Entry, name: str) -> list[str] | None:
    """The arguments in a command line; None where they are not known, or it is cut."""
    shown = text(entry, name)
    # What is hidden has a word in its place; what is cut has none.
    return None if not shown or is_cut(shown) else words_of(shown)


def effective_user(entry: Entry) -> tuple[str | None, str | None]:
    """Its id, which `standard` leaves out where it is the real user's; and its name, where that one's is."""
    uid, euid = text(entry, "UID"), text(entry, "EUID")
    if PREFIX + "EUID" not in entry and all(PREFIX + name in entry for name in ALWAYS):
        euid = uid
    return euid, text(entry, "USER") if euid is not None and euid == uid else None


def rest(entry: Entry, placed: Container[str]) -> dict[str, Typed]:
    """The PROCWATCH_ fields that are not among those `placed`, by name: numbers, texts, and lists of texts."""
    is_own = entry.get(PREFIX + "EVENT") not in EVENTS
    found: dict[str, Typed] = {}
    for field in entry:
        name = field.removeprefix(PREFIX)
        if not field.startswith(PREFIX) or name in placed or not _NAME.fullmatch(name):
            continue
        value = _typed(entry, name, is_own=is_own)
        if value is not None:
            found[name] = value
    return found


def _typed(entry: Entry, name: str, *, is_own: bool) -> Typed | None:
    if name not in _OWN_TEXTS if is_own else name in _NUMBERS:
        as_number = number(entry, name)
        if as_number is not None or name in _NUMBERS:
            return as_number
    found = texts(entry, name)
    if not found:
        return None
    is_list = name.startswith("SIGMA_") or name == "SAMPLE"
    return found if is_list or len(found) > 1 else found[0]


def event_usec(entry: Entry) -> int:
    """The kernel's time of the event, else when it was written, in µs since 1970. Raises LeftOutError without both."""
    found = kernel_usec(entry)
    if found is None:
        found = realtime_usec(entry)
    if found is None:
        raise LeftOutError("without a time")
    return found


def span(entry: Entry, usec: int) -> tuple[int | None, int | None]:
    """When the process began and ended, in µs since 1970, as far as the entry of the event at `usec` says it."""
    event, duration = text(entry, "EVENT"), number(entry, "DURATION_USEC")
    if PREFIX + "TID" in entry or is_found_late(entry):
        return None, None
    if event == "fork":
        return usec, None
    if event != "exit":
        return None, None
    return usec - duration if duration is not None and duration <= usec else None, usec


def is_found_late(entry: Entry) -> bool:
    """Whether a process was found to be there, or to be gone: nobody saw it begin or end, nor knows when that was."""
    event = text(entry, "EVENT")
    if PREFIX + "RESYNC" not in entry:
        return False
    # The accounting has the time of an end.
    return event == "fork" or (event == "exit" and PREFIX + "EXIT_SOURCE" not in entry)


def iso(usec: int) -> str:
    """`2026-11-21T17:53:13.450132Z`. Raises LeftOutError for what no calendar has."""
    try:
        seconds = datetime.fromtimestamp(usec // 1_000_000, UTC)
    except (OverflowError, ValueError, OSError):
        raise LeftOutError("without a time") from None
    return f"{seconds:%Y-%m-%dT%H:%M:%S}.{usec % 1_000_000:06d}Z"


def event_id(entry: Entry) -> str:
    """The same for the same entry, wherever and whenever it is read."""
    # Entries of the daemon's own may be of one µs: their message tells them apart.
    names = ("EVENT", "PID", "PROCESS_ID", "TID", "MONOTONIC_USEC")
    parts = [entry.get("_BOOT_ID"), *(entry.get(PREFIX + name) for name in names), entry.get("MESSAGE")]
    if entry.get(PREFIX + "MONOTONIC_USEC") is None:
        parts.append(entry.get("__REALTIME_TIMESTAMP"))
    told = "\0".join(str(part) for part in parts)
    return hashlib.sha256(told.encode("utf-8", "backslashreplace")).hexdigest()[:32]


def entity_id(entry: Entry, name: str = "PROCESS_ID") -> str | None:
    """What names one process among those of all hosts and boots."""
    boot, process_id = field_of_journald(entry, "_BOOT_ID"), text(entry, name)
    return f"{boot}-{process_id}" if boot and process_id else None


def is_detection(entry: Entry) -> bool:
    """Whether Sigma rules matched, whatever of that `log.fields` asked for."""
    return any(PREFIX + name in entry for name in SIGMA)


def sigma_level(entry: Entry) -> int | None:
    """The most severe level of the detections, from 1, informational, to 5, critical."""
    levels = [_SIGMA_LEVELS.index(one) + 1 for one in texts(entry, "SIGMA_LEVEL") if one in _SIGMA_LEVELS]
    return max(levels, default=None)


def priority(entry: Entry) -> int | None:
    """PRIORITY, as numbered by syslog(3)."""
    found = number_of(entry.get("PRIORITY"))
    return found if found is not None and found < 8 else None
