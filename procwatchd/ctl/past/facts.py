# SPDX-License-Identifier: MIT
"""What the past holds of an event: its fields, and what cannot be known of it any more.

Facts:
- An entry has what `log.fields` asked for then. MONOTONIC_USEC, IDENTITY and SOURCE are in all entries under `standard`
  and `all`: where one is missing, it was a list, and what is absent may have been there [journal/build.py].
- `standard` leaves out some fields, EUID where it is UID, and GID where it is the user's own group [the same].
- Of ancestors an entry has the names, and more of the parent alone.
- Whether a path is one of the host's own mount namespace an entry says by MOUNT_NAMESPACE, if /proc could be read at
  all; so too with the working directory [process/procfs.py]. Of others' paths it does not.
- journalctl gives null for a field that is too long for it, without --all [journalctl(1), -o json].
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from procwatchd.ctl.past.unquote import unquote, why_hidden
from procwatchd.journal.build import NOT_STANDARD
from procwatchd.journal.kinds import PREFIX
from procwatchd.process.fields import EVENTS, FIELDS, Field, Kind, Value

UNIT = "procwatchd.service"

ALWAYS = frozenset({"MONOTONIC_USEC", "IDENTITY", "SOURCE"})
_COMMAND_LINES = ("CMDLINE", "PARENT_CMDLINE")
_OF_PARENT = {name: f"PARENT_{name}" for name in ("COMM", "EXE", "CMDLINE", "PROCESS_ID")}
_OF_PROCESS = frozenset(name for name, found in FIELDS.items() if found.of_process is not None)
_NOT_RECORDED = "was not recorded"
_NUMBER = re.compile(r"-?[0-9]{1,19}")
_ANCESTOR = re.compile(rb"([^ \[\]]+)\[([0-9]{1,10})\]")
_ESCAPE = re.compile(rb"\\x([0-9a-f]{2})")


class ForeignError(ValueError):
    """What is no entry of procwatchd's; the text says why."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of an event or of an ancestor.

    `values` by their names in FIELDS; what is in neither that nor `hidden`, where it says why, was not there.
    `parents`, nearest first, are all there were if `has_all_parents`. `trusted`: by the names of executables, whether
    the path is the host's; what is not in it nobody can say. `is_whole`: from a recording, which has all events.
    `is_living`: no event, but a process that was there before. `command` is for people, and as it came: not safe for a
    terminal. `daemon` tells whose word it is: of which machine, and since which start.
    """

    values: Mapping[str, Value]
    hidden: Mapping[str, str] = field(default_factory=dict)
    parents: tuple[Facts, ...] = ()
    has_all_parents: bool = True
    trusted: Mapping[str, bool] = field(default_factory=dict)
    forked_usec: int | None = None
    is_whole: bool = False
    is_living: bool = False
    command: str = ""
    daemon: tuple[object, ...] = ()

    @property
    def event(self) -> str:
        """The field EVENT's word."""
        return str(self.values.get("EVENT", ""))

    @property
    def process_id(self) -> Value:
        """PROCESS_ID, where it is known."""
        return self.values.get("PROCESS_ID")


def kind_of(entry: Mapping[str, Any]) -> str:
    """The word of the entry's EVENT, whatever it is. Raises ForeignError where this is nobody's of procwatchd."""
    event = entry.get(PREFIX + "EVENT")
    if not isinstance(event, str):
        raise ForeignError("no entry of procwatchd's")
    if entry.get("_SYSTEMD_UNIT", UNIT) != UNIT:
        raise ForeignError("sent by another unit, in procwatchd's name")
    return event


def facts_of_entry(entry: Mapping[str, Any], daemon: tuple[object, ...] = ()) -> Facts:
    """What an entry about an event says. Raises ForeignError for what is none."""
    if kind_of(entry) not in EVENTS:
        raise ForeignError("not about an event")
    values, hidden = typed_values({name: entry[PREFIX + name] for name in FIELDS if PREFIX + name in entry})
    is_standard = values.keys() >= ALWAYS
    missing = NOT_STANDARD if is_standard else FIELDS.keys()
    hidden |= {name: _NOT_RECORDED for name in missing if name not in values and name not in hidden}
    if is_standard:
        _add_equals(values, hidden)
    command = command_of(values)
    for name in _COMMAND_LINES:
        _show_command_line(values, hidden, name)
    if PREFIX + "ARGV_TRUNCATED" in entry and values.pop("CMDLINE", None) is not None:
        hidden["CMDLINE"] = "it is cut"
    return Facts(
        values,
        hidden,
        _parents(values, hidden),
        "ANCESTORS" not in hidden,
        trusted=_trusted(values),
        command=command,
        daemon=daemon,
    )


def command_of(values: Mapping[str, Value]) -> str:
    """What ran, as it came."""
    found = next((values[name] for name in ("CMDLINE", "EXE", "FILENAME", "COMM") if name in values), b"")
    return found.decode("utf-8", "surrogateescape") if isinstance(found, bytes) else str(found)


def typed_values(raw: Mapping[str, Any]) -> tuple[dict[str, Value], dict[str, str]]:
    """Values in the form of `journalctl -o json` as rules compare them; and why some are not known."""
    values: dict[str, Value] = {}
    hidden: dict[str, str] = {}
    for name, value in raw.items():
        found = _typed(FIELDS[name], value)
        if found is None:
            hidden[name] = "was too long for journalctl without --all" if value is None else "cannot be read"
        else:
            values[name] = found
    return values, hidden


def _typed(of: Field, raw: Any) -> Value:
    """One value; None for what is none."""
    if isinstance(raw, list):
        is_bytes = all(isinstance(one, int) and 0 <= one < 256 for one in raw)
        return bytes(raw) if is_bytes and of.kind is Kind.TEXT else None
    if isinstance(raw, bytes):
        return raw if of.kind is Kind.TEXT else None
    if not isinstance(raw, str):
        return None
    if of.kind is Kind.NUMBER:
        return int(raw) if _NUMBER.fullmatch(raw) else None
    return raw if of.kind is Kind.WORD else raw.encode("utf-8", "surrogatepass")


def _add_equals(values: dict[str, Value], hidden: dict[str, str]) -> None:
    """What `standard` leaves out as it is what its neighbour is."""
    if "UID" in values and "EUID" not in values:
        values["EUID"] = values["UID"]
    if "GID" not in values:
        hidden["GID"] = "is left out where it is the user's own"


def _show_command_line(values: dict[str, Value], hidden: dict[str, str], name: str) -> None:
    """Put the arguments in place of how they were shown; or say why that cannot be."""
    shown = values.get(name)
    if not isinstance(shown, bytes):
        return
    text = shown.decode("utf-8", "surrogateescape")
    arguments = unquote(text)
    why = why_hidden(text) or ("" if arguments is not None else "cannot be read back")
    if why:
        del values[name]
        hidden[name] = why
    else:
        values[name] = arguments


def _parents(values: Mapping[str, Value], hidden: Mapping[str, str]) -> tuple[Facts, ...]:
    """The ancestors, as far as an entry names them."""
    text = values.get("ANCESTORS")
    found = [] if not isinstance(text, bytes) else [_named(word) for word in text.split(b" ")]
    if not found and not any(name in values for name in _OF_PARENT.values()):
        return ()
    own = {name: values[of] for name, of in _OF_PARENT.items() if of in values}
    unknown = {name: hidden[of] for name, of in _OF_PARENT.items() if of in hidden}
    first, *others = found or [{}]
    unknown |= dict.fromkeys(_OF_PROCESS - first.keys() - _OF_PARENT.keys(), _NOT_RECORDED)
    parent = Facts({**first, **own}, unknown, has_all_parents=False)
    return (parent, *(_ancestor(one) for one in others))


def _named(word: bytes) -> dict[str, Value]:
    """What `sshd[900]` says; nothing where it is something else."""
    found = _ANCESTOR.fullmatch(word)
    if found is None:
        return {}
    values: dict[str, Value] = {"PID": int(found[2])}
    if found[1] != b"?":  # so it is written where it is not known
        values["COMM"] = _ESCAPE.sub(lambda byte: bytes([int(byte[1], 16)]), found[1])
    return values


def _ancestor(values: dict[str, Value]) -> Facts:
    unknown = dict.fromkeys(_OF_PROCESS - values.keys(), _NOT_RECORDED)
    return Facts(values, unknown, has_all_parents=False)


def _trusted(values: Mapping[str, Value]) -> dict[str, bool]:
    if "MOUNT_NAMESPACE" in values:
        return {"EXE": False, "FILENAME": False}
    return {"EXE": True, "FILENAME": True} if "CWD" in values else {}
