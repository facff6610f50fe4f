# SPDX-License-Identifier: MIT
"""Entries as events of the Open Cybersecurity Schema Framework: class Process Activity.

Facts:
- Which attributes there are, of which types, and which are required: the schema 1.7.0
  [schema.ocsf.io; tests/data/ocsf-process-activity.json]. fork and exec are told apart from 1.7 on, by launch_type_id.
- Times are in ms since 1970; metadata.original_time is a text, and has the rest [timestamp_t; metadata].
- An end at a process's own initiation, or where nobody knows whose it was, is the process's own [activity_id 2].
- A detection is another class, without the process's own attributes as required ones; the profile security_control says
  of an activity that it was detected [Detection Finding; profiles].

So a Sigma detection is the activity with `is_alert`, `attacks` and its severity. What has no place is in `unmapped`, by
its name without PROCWATCH_. The daemon's own entries are no activity of a process, and are left out.
"""

from __future__ import annotations

import re
from typing import Any, TypeAlias

from procwatchd.ctl.export.attack import attack_of
from procwatchd.ctl.export.typed import (
    LeftOutError,
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
    sigma_level,
    span,
    text,
    texts,
)
from procwatchd.ctl.past.entries import Entry, number, number_of, realtime_usec
from procwatchd.journal.kinds import PREFIX
from procwatchd.process.fields import EVENTS

VERSION = "1.7.0"

Object: TypeAlias = dict[str, Any]

LAUNCH, TERMINATE, OPEN, SET_USER_ID, OTHER = 1, 2, 3, 5, 99
_ACTIVITIES = {"fork": LAUNCH, "exec": LAUNCH, "exit": TERMINATE, "uid": SET_USER_ID}
_CAPTIONS = {LAUNCH: "Launch", TERMINATE: "Terminate", OPEN: "Open", SET_USER_ID: "Set User ID"}
# Of what the class has no name for.
_OTHERS = {
    "fork": "Start Thread",
    "exec": "Launch",
    "exit": "End Thread",
    "gid": "Set Group ID",
    "sid": "Set Session ID",
    "comm": "Set Name",
    "ptrace": "End Trace",
    "coredump": "Dump Core",
}
_LAUNCHES = {"fork": (2, "Fork"), "exec": (3, "Exec")}
_SEVERITIES = ("Unknown", "Informational", "Low", "Medium", "High", "Critical")
_BY_PRIORITY = (5, 5, 5, 4, 3, 2, 1, 1)  # from emergency to debug
_REGULAR_FILE, _SHA256, _LINUX, _DETECTED, _OBSERVED = 1, 3, 200, 15, 3

_PLACED = frozenset(
    {
        *("EVENT", "PID", "TID", "PROCESS_ID", "COMM", "EXE", "CMDLINE", "CWD", "TTY", "SHA256"),
        *("UID", "EUID", "GID", "EGID", "USER", "LOGINUID", "SESSION", "CONTAINER_ID", "EXIT_CODE"),
        *("ANCESTORS", "TAGS"),
    }
)
# In the place of whoever acted, or of the parent, if at least one of the first two is there.
_OF_PARENT = ("PPID", "PARENT_PROCESS_ID", "PARENT_COMM", "PARENT_EXE", "PARENT_CMDLINE")
_OF_KILLER = ("KILLER_PID", "", "KILLER_COMM", "KILLER_EXE", "")
_OF_TRACER = ("TRACER_PID", "", "TRACER_COMM", "TRACER_EXE", "")
_ITSELF = ("PID", "PROCESS_ID", "COMM", "EXE", "")

_ANCESTOR = re.compile(r"(\S+)\[([0-9]{1,10})\]")


def ocsf(entry: Entry) -> Object:
    """The event that an entry is. Raises LeftOutError for what is no process's, or lacks what has to be there."""
    event = text(entry, "EVENT") or ""
    if event not in EVENTS:
        raise LeftOutError("of the daemon's own")
    usec, actor = event_usec(entry), _actor(entry, event)
    process = _process(entry, usec)
    if not process.keys() & {"pid", "uid"}:
        raise LeftOutError("without a process")
    made = {
        **_classification(entry, event),
        "time": usec // 1000,
        "message": exact(entry.get("MESSAGE")),
        "metadata": _metadata(entry, process, usec),
        "device": _device(entry),
        "actor": {"process": actor},
        "process": process,
        "exit_code": number(entry, "EXIT_CODE"),
        **_detection(entry),
        "unmapped": rest(entry, _placed(entry, event)),
    }
    return _without_absent(made)


def _without_absent(found: Object) -> Object:
    return {name: value for name, value in found.items() if value is not None and value not in ([], {}, "")}


def _classification(entry: Entry, event: str) -> Object:
    activity = _activity(entry, event)
    severity = max(sigma_level(entry) or 0, _severity(entry))
    name = _CAPTIONS.get(activity) or _other_name(entry, event)
    launch, launch_type = _LAUNCHES[event] if activity == LAUNCH else (None, None)
    return {
        "category_uid": 1,
        "category_name": "System Activity",
        "class_uid": 1007,
        "class_name": "Process Activity",
        "activity_id": activity,
        "activity_name": name,
        "type_uid": 100700 + activity,
        "type_name": f"Process Activity: {_CAPTIONS.get(activity, 'Other')}",
        "severity_id": severity,
        "severity": _SEVERITIES[severity],
        "launch_type_id": launch,
        "launch_type": launch_type,
    }


def _activity(entry: Entry, event: str) -> int:
    if event == "ptrace":
        return OPEN if number(entry, "TRACER_PID") is not None else OTHER
    is_of_thread = event in ("fork", "exit") and PREFIX + "TID" in entry
    return OTHER if is_of_thread or is_found_late(entry) else _ACTIVITIES.get(event, OTHER)


def _other_name(entry: Entry, event: str) -> str:
    if PREFIX + "TID" in entry or not is_found_late(entry):
        return _OTHERS[event]
    return "Found" if event == "fork" else "Found Gone"


def _severity(entry: Entry) -> int:
    level = priority(entry)
    return 0 if level is None else _BY_PRIORITY[level]


def _process(entry: Entry, usec: int) -> Object:
    """The process that an entry is about, with what is known of its parents."""
    began, ended = span(entry, usec)
    made = _other_process(entry, _ITSELF) | {
        "cmd_line": text(entry, "CMDLINE"),
        "working_directory": text(entry, "CWD"),
        "ptid": number(entry, "TID"),
        "user": _named(entry, "UID", "USER"),
        "group": _named(entry, "GID"),
        "euid": number_of(effective_user(entry)[0]),
        "egid": number(entry, "EGID"),
        "auid": number(entry, "LOGINUID"),
        "session": _without_absent({"uid": text(entry, "SESSION"), "terminal": text(entry, "TTY")}),
        "container": _named(entry, "CONTAINER_ID"),
        "created_time": None if began is None else began // 1000,
        "terminated_time": None if ended is None else ended // 1000,
        "parent_process": _other_process(entry, _OF_PARENT),
        "ancestry": _ancestry(entry),
    }
    _add_hash(made, text(entry, "SHA256"))
    return _without_absent(made)


def _other_process(entry: Entry, names: tuple[str, str, str, str, str]) -> Object:
    """A process by what five fields say of it, as far as they are there; nothing where none says which one it is."""
    pid, process_id, comm, exe, command = names
    made: Object = {"pid": number(entry, pid), "uid": entity_id(entry, process_id)}
    if not _without_absent(made):
        return {}
    path = text(entry, exe)
    file = _file(path)
    made |= {"name": text(entry, comm), "cmd_line": text(entry, command), "path": path, "file": file}
    return _without_absent(made)


def _file(path: str | None) -> Object | None:
    """What runs is a regular file, as the kernel runs no others."""
    if not path:
        return None
    return {"name": path.rpartition("/")[2] or path, "path": path, "type_id": _REGULAR_FILE}


def _add_hash(process: Object, value: str | None) -> None:
    if value and process.get("file"):
        process["file"]["hashes"] = [{"algorithm": "SHA-256", "algorithm_id": _SHA256, "value": value}]


def _named(entry: Entry, uid: str, name: str = "") -> Object:
    return _without_absent({"uid": text(entry, uid), "name": text(entry, name) if name else None})


def _ancestry(entry: Entry) -> list[Object]:
    """The line of parents, nearest first, `?` being what has no name there."""
    found = _ANCESTOR.findall(text(entry, "ANCESTORS") or "")
    return [{"pid": int(pid), **({} if comm == "?" else {"name": comm})} for comm, pid in found]


def _actor(entry: Entry, event: str) -> Object:
    """Who did it: the parent, the killer, the tracer; the process itself where it was that, or nobody knows."""
    by = {"fork": _OF_PARENT, "exec": _OF_PARENT, "exit": _OF_KILLER, "ptrace": _OF_TRACER}.get(event)
    made = _other_process(entry, by) if by is not None and not is_found_late(entry) else {}
    if not made or (by is _OF_KILLER and made["pid"] == number(entry, "PID")):
        return _other_process(entry, _ITSELF)
    user = _named(entry, "KILLER_UID") if by is _OF_KILLER else {}
    return _without_absent(made | {"user": user})


def _placed(entry: Entry, event: str) -> frozenset[str]:
    """The fields that are in the event, by name."""
    placed = _PLACED
    if number(entry, "PPID") is not None or entity_id(entry, "PARENT_PROCESS_ID"):
        placed |= set(_OF_PARENT)
    if event == "exit" and number(entry, "KILLER_PID") is not None:
        placed |= {*_OF_KILLER, "KILLER_UID"}
    if event == "ptrace" and number(entry, "TRACER_PID") is not None:
        placed |= set(_OF_TRACER)
    return placed if text(entry, "EXE") else placed - {"SHA256"}


def _device(entry: Entry) -> Object:
    """The host. Of what kind it is, nobody says. Raises LeftOutError where it has neither name nor id."""
    made = _without_absent(
        {"hostname": field_of_journald(entry, "_HOSTNAME"), "uid": field_of_journald(entry, "_MACHINE_ID")}
    )
    if not made:
        raise LeftOutError("without a host")
    boot = field_of_journald(entry, "_BOOT_ID")
    return _without_absent(
        {**made, "type_id": 0, "boot_uid": boot, "os": {"name": "Linux", "type_id": _LINUX}}
    )


def _metadata(entry: Entry, process: Object, usec: int) -> Object:
    written = realtime_usec(entry)
    profiles = ["container"] if "container" in process else []
    extensions = []
    if process.keys() & {"auid", "euid", "egid", "group"}:
        profiles.append("linux/linux_users")
        extensions.append({"name": "linux", "uid": "1", "version": VERSION})
    if is_detection(entry):
        profiles.append("security_control")
    return _without_absent(
        {
            "version": VERSION,
            "product": {"name": "procwatchd"},
            "uid": event_id(entry),
            "event_code": text(entry, "EVENT"),
            "original_time": iso(usec),
            "logged_time": None if written is None else written // 1000,
            "labels": (text(entry, "TAGS") or "").split(),
            "profiles": profiles,
            "extensions": extensions,
        }
    )


def _detection(entry: Entry) -> Object:
    """What Sigma rules found, by the profile security_control."""
    if not is_detection(entry):
        return {}
    attack = attack_of(texts(entry, "SIGMA_TAGS"))
    whole = {uid for uid, _ in attack.subtechniques}
    attacks: list[Object] = [{"tactic": {"uid": uid, "name": name}} for uid, name in attack.tactics]
    attacks += [{"technique": {"uid": uid}} for uid in attack.techniques if uid not in whole]
    attacks += [
        {"technique": {"uid": uid}, "sub_technique": {"uid": part}} for uid, part in attack.subtechniques
    ]
    return {
        "is_alert": True,
        "action_id": _OBSERVED,
        "action": "Observed",
        "disposition_id": _DETECTED,
        "disposition": "Detected",
        "attacks": attacks,
    }
