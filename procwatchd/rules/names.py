# SPDX-License-Identifier: MIT
"""What a rule may call a field, in a match as in a message, and how a record gives its value."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from procwatchd.process.fields import ENTRY_ONLY, FIELDS, Field, Value
from procwatchd.process.model import Process, Record

# What the entry has beside FIELDS; none of them may be a rule's own field.
TAGS = "TAGS"
SIGMA = frozenset({"SIGMA_ID", "SIGMA_TITLE", "SIGMA_LEVEL", "SIGMA_TAGS", "SIGMA_AUTHOR"})

_KEY = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")


class UnknownNameError(ValueError):
    """A name that means no field here; the text says why, and what may have been meant."""


class Scope(Enum):
    """Whose field it is: the record's, or with this word in front that of the parent or of an ancestor."""

    RECORD = ""
    PARENT = "parent"
    ANCESTOR = "ancestor"


@dataclass(frozen=True, slots=True)
class Target:
    """A field as named in a rule.

    `get` takes a Record, under Scope.ANCESTOR a Process. `trusted` is there for an executable's path: whether
    its process sees the host's own files, so that the path means what it says.
    """

    field: Field
    scope: Scope
    get: Callable[[Any], Value]
    trusted: Callable[[Any], bool] | None = None


def key_of(name: str) -> str:
    """The field's name as it is written in YAML: `exit-code` for EXIT_CODE."""
    return name.lower().replace("_", "-")


def name_of(key: str) -> str:
    """The field's name for `key` as written in YAML, whether there is such a field or not."""
    return key.upper().replace("-", "_") if _KEY.fullmatch(key) else ""


def suggestion(word: str, known: list[str]) -> str:
    """`; did you mean …?`, or nothing where no known word is near."""
    near = difflib.get_close_matches(word[:64].lower().replace("_", "-"), known, 1)
    return f"; did you mean {near[0]!r}?" if near else ""


def unknown_field(key: str) -> UnknownNameError:
    """The problem with a key that is no field's."""
    known = [*map(key_of, FIELDS), "tags"]
    return UnknownNameError(f"unknown field {key[:64]!r}{suggestion(key, known)}")


def resolve(key: str) -> Target:
    """The field that `key` names: `exe`, `parent.exe` or `ancestor.exe`. Raises UnknownNameError."""
    prefix, dot, rest = key.rpartition(".")
    if not dot:
        return _of_record(_known(key))
    if prefix not in ("parent", "ancestor"):
        raise UnknownNameError(
            f"unknown prefix {prefix[:64]!r}: only 'parent.' and 'ancestor.' can stand before a field"
        )
    field = _known(rest)
    if field.of_process is None:
        raise UnknownNameError(f"{rest!r} belongs to the event, so that no {prefix} has it")
    # These look on from where they are asked, which would escape the guard of silencing rules.
    if field.name.startswith("PARENT_") or field.name == "ANCESTORS":
        raise UnknownNameError(f"{rest!r} cannot stand after {prefix!r}; use 'ancestor.' with a field")
    if prefix == "parent":
        return _of_parent(field, field.of_process)
    trusted = _sees_host if field.name == "EXE" else None
    return Target(field, Scope.ANCESTOR, field.of_process, trusted)


def _known(key: str) -> Field:
    name = name_of(key)
    field = FIELDS.get(name)
    if field is not None:
        return field
    if name.startswith("ENV_"):
        raise UnknownNameError(f"field {key!r} is not supported yet")
    if name in ENTRY_ONLY | SIGMA:
        raise UnknownNameError(f"field {key!r} is decided while the entry is made, after all rules")
    raise unknown_field(key)


def _sees_host(process: Process | None) -> bool:
    return process is not None and process.context.host_mounts


def _of_record(field: Field) -> Target:
    trusted: Callable[[Record], bool] | None = None
    if field.name in ("EXE", "FILENAME"):
        trusted = _process_sees_host
    elif field.name == "PARENT_EXE":
        trusted = _parent_sees_host
    elif field.name == "TRACER_EXE":
        trusted = _tracer_sees_host
    elif field.name == "KILLER_EXE":
        trusted = _killer_sees_host
    return Target(field, Scope.RECORD, field.of_record, trusted)


def _process_sees_host(record: Record) -> bool:
    return record.process.context.host_mounts


def _parent_sees_host(record: Record) -> bool:
    return _sees_host(record.process.parent)


def _tracer_sees_host(record: Record) -> bool:
    return _sees_host(record.tracer)


def _killer_sees_host(record: Record) -> bool:
    return record.killer is not None and record.killer.host_mounts


def _of_parent(field: Field, read: Callable[[Process], Value]) -> Target:
    def get(record: Record) -> Value:
        parent = record.process.parent
        return None if parent is None else read(parent)

    return Target(field, Scope.PARENT, get, _parent_sees_host if field.name == "EXE" else None)


def getter_of(name: str) -> Callable[[Record], Value]:
    """What gives the value of a field named as in `Template.render`: `CMDLINE`, or `PARENT.UID`.

    Raises UnknownNameError for RULE, TAGS and others that no record has.
    """
    getter: Callable[[Record], Value] = resolve(key_of(name)).get
    return getter
