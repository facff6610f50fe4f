# SPDX-License-Identifier: MIT
"""Entries as documents of the Elastic Common Schema.

Facts:
- Which fields there are, and of which type: ecs_flat of 8.11, the same in 9.4 [Elastic; tests/data/ecs-fields.json].
- user.* is the real user id, user.effective.* what it acts as; process.user is the effective, process.real_user the
  real one [ECS, user and process].
- What is ours alone may be in a namespace of our own, which no later version takes [ECS, custom fields].

So what has no place there is in `procwatchd.`, named as in the entry, in lower case. A Sigma detection makes an alert
of it; the daemon's own entries are states, or metrics.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, TypeAlias

from procwatchd.ctl.export.attack import attack_of
from procwatchd.ctl.export.typed import (
    arguments,
    effective_user,
    entity_id,
    event_id,
    event_usec,
    exact,
    field_of_journald,
    is_detection,
    is_found_late,
    iso,
    priority,
    rest,
    span,
    text,
    texts,
)
from procwatchd.ctl.past.entries import Entry, number, realtime_usec
from procwatchd.journal.kinds import PREFIX
from procwatchd.process.fields import EVENTS

VERSION = "8.11.0"

Document: TypeAlias = dict[str, Any]

_TEXTS = {
    "COMM": ["process.name"],
    "EXE": ["process.executable"],
    "CMDLINE": ["process.command_line"],
    "CWD": ["process.working_directory"],
    "SHA256": ["process.hash.sha256"],
    "UID": ["user.id", "process.real_user.id"],
    "USER": ["user.name", "process.real_user.name"],
    "GID": ["user.group.id", "process.real_group.id"],
    "CONTAINER_ID": ["container.id"],
    "PARENT_COMM": ["process.parent.name"],
    "PARENT_EXE": ["process.parent.executable"],
    "PARENT_CMDLINE": ["process.parent.command_line"],
}
_NUMBERS = {
    "PID": "process.pid",
    "TID": "process.thread.id",
    "PPID": "process.parent.pid",
    "SID": "process.session_leader.pid",
    "EXIT_CODE": "process.exit_code",
}
_PLACED = frozenset({*_TEXTS, *_NUMBERS, "EVENT", "EUID", "TAGS"})

# By the event: what a process did. Threads, what was found late, and what is nobody's change, are `info`.
_TYPES = {
    "fork": "start",
    "exec": "start",
    "exit": "end",
    "uid": "change",
    "gid": "change",
    "sid": "change",
    "comm": "change",
    "ptrace": "access",
    "coredump": "info",
}
_OF_PROCESS_ALONE = ("fork", "exit")  # of a thread they do not begin or end a process
_ERRORS = ("loss", "blind")
_LEVELS = ("emergency", "alert", "critical", "error", "warning", "notice", "informational", "debug")


def ecs(entry: Entry) -> Document:
    """The document that an entry is. Raises LeftOutError where it has no time."""
    usec = event_usec(entry)
    document: Document = {"@timestamp": iso(usec), "ecs": {"version": VERSION}}
    _put(document, "message", exact(entry.get("MESSAGE")))
    _put_host(document, entry)
    _put_event(document, entry)
    if entry.get(PREFIX + "EVENT") in EVENTS:
        _put_process(document, entry, usec)
        _put_detections(document, entry)
    _put(document, "tags", (text(entry, "TAGS") or "").split())
    for name, value in rest(entry, _PLACED if "process" in document else ("EVENT", "TAGS")).items():
        _put(document, f"procwatchd.{name.lower()}", value)
    return document


def _put(document: Document, path: str, value: object) -> None:
    """Put a value to its place, where there is one."""
    if value is None or value == []:
        return
    *above, name = _steps(path)
    for one in above:
        document = document.setdefault(one, {})
    document[name] = value


@lru_cache(1024)
def _steps(path: str) -> list[str]:
    return path.split(".")


def _put_host(document: Document, entry: Entry) -> None:
    name, boot = field_of_journald(entry, "_HOSTNAME"), field_of_journald(entry, "_BOOT_ID")
    _put(document, "host.name", name)
    _put(document, "host.hostname", name)
    _put(document, "host.id", field_of_journald(entry, "_MACHINE_ID"))
    _put(document, "host.os.type", "linux")
    if boot is not None and len(boot) == 32:
        _put(document, "host.boot.id", "-".join((boot[:8], boot[8:12], boot[12:16], boot[16:20], boot[20:])))


def _put_event(document: Document, entry: Entry) -> None:
    kind = text(entry, "EVENT") or ""
    written, level = realtime_usec(entry), priority(entry)
    _put(document, "agent.type", "procwatchd")
    _put(document, "event.id", event_id(entry))
    _put(document, "event.kind", _kind(kind))
    if kind in EVENTS or kind == "summary":
        _put(document, "event.category", ["process"])
    _put(document, "event.type", [_type(entry, kind)])
    _put(document, "event.action", kind)
    _put(document, "event.module", "procwatchd")
    _put(document, "event.provider", "procwatchd")
    _put(document, "event.dataset", "procwatchd.event" if kind in EVENTS else "procwatchd.daemon")
    _put(document, "event.code", field_of_journald(entry, "MESSAGE_ID"))
    _put(document, "event.created", None if written is None else iso(written))
    if level is not None:
        _put(document, "event.severity", level)
        _put(document, "log.syslog.severity", {"code": level, "name": _LEVELS[level]})


def _kind(kind: str) -> str:
    if kind in EVENTS or kind == "summary":
        return "event"
    return "metric" if kind == "statistics" else "state"


def _type(entry: Entry, kind: str) -> str:
    if kind in _ERRORS:
        return "error"
    is_of_thread = kind in _OF_PROCESS_ALONE and PREFIX + "TID" in entry
    return "info" if is_of_thread or is_found_late(entry) else _TYPES.get(kind, "info")


def _put_process(document: Document, entry: Entry, usec: int) -> None:
    for name, paths in _TEXTS.items():
        value = text(entry, name)
        for path in paths:
            _put(document, path, value)
    uid, user = effective_user(entry)
    for place in ("user.effective", "process.user"):
        _put(document, f"{place}.id", uid)
        _put(document, f"{place}.name", user)
    for name, path in _NUMBERS.items():
        _put(document, path, number(entry, name))
    for name, path in (("", "process"), ("PARENT_", "process.parent")):
        _put(document, f"{path}.entity_id", entity_id(entry, f"{name}PROCESS_ID"))
        words = arguments(entry, f"{name}CMDLINE")
        _put(document, f"{path}.args", words)
        _put(document, f"{path}.args_count", None if words is None else len(words))
    began, ended = span(entry, usec)
    _put(document, "process.start", None if began is None else iso(began))
    _put(document, "process.end", None if ended is None else iso(ended))
    if began is not None and ended is not None:
        _put(document, "process.uptime", (ended - began) // 1_000_000)


def _put_detections(document: Document, entry: Entry) -> None:
    """What makes an alert of it: Sigma rules that matched. One is as it is, several are lists."""
    if not is_detection(entry):
        return
    event = document["event"]
    event |= {"kind": "alert", "category": ["process", "intrusion_detection"]}
    # Of what the process did no type is one of a detection.
    event["type"] = list(dict.fromkeys([*event["type"], "info"]))
    for name, place in (("SIGMA_ID", "rule.id"), ("SIGMA_TITLE", "rule.name")):
        found = [one for one in texts(entry, name) if one]
        _put(document, place, found[0] if len(found) == 1 else found)
    _put(document, "rule.author", [one for one in texts(entry, "SIGMA_AUTHOR") if one])
    attack = attack_of(texts(entry, "SIGMA_TAGS"))
    if attack.tactics or attack.techniques:
        _put(document, "threat.framework", "MITRE ATT&CK")
    _put(document, "threat.tactic.id", [uid for uid, _ in attack.tactics])
    _put(document, "threat.tactic.name", [name for _, name in attack.tactics])
    _put(document, "threat.technique.id", attack.techniques)
    _put(document, "threat.technique.subtechnique.id", [uid for _, uid in attack.subtechniques])
