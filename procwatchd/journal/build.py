# SPDX-License-Identifier: MIT
"""From a record and what the rules decided to an entry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from procwatchd.journal.entry import Entry, FieldValue, Shared
from procwatchd.journal.kinds import INFO, MESSAGE_IDS, PREFIX
from procwatchd.journal.message import Frame, detected, frame, message
from procwatchd.journal.quote import cut_argv, cut_variable, printable, quote_argv
from procwatchd.kernel.clock import Clock
from procwatchd.process.fields import ENTRY_ONLY, EVENTS, FIELDS, Value
from procwatchd.process.model import Context, Creds, Image, Process, Record
from procwatchd.rules.detection import DETECTIONS_LIMIT, Detection
from procwatchd.rules.limit import VALUE_LIMIT, By
from procwatchd.rules.names import SIGMA
from procwatchd.rules.redact import Redactor
from procwatchd.rules.ruleset import Decision

# Left out by `log.fields: standard`, beside what equals its neighbour.
NOT_STANDARD = frozenset(
    {"LAG_USEC", "AUDIT_SESSION", "SID", "EGID", "IO_READ_BYTES", "IO_WRITE_BYTES", "ARGV_BYTES"}
)

ONLY_IN = {
    "fork": {"RESYNC"},
    "exec": {"FILENAME", "LAG_USEC", "SHA256", "HASH_LATE", "RESYNC"},
    "exit": {
        *("EXIT_CODE", "EXIT_SIGNAL", "CORE_DUMPED", "EXIT_SOURCE", "RESYNC"),
        *("KILLER_PID", "KILLER_COMM", "KILLER_EXE", "KILLER_UID", "OOM_KILLED"),
        *("DURATION_USEC", "CPU_USEC", "MEMORY_PEAK", "IO_READ_BYTES", "IO_WRITE_BYTES"),
    },
    "uid": {"OLD_UID", "OLD_EUID"},
    "gid": {"OLD_GID", "OLD_EGID"},
    "comm": {"OLD_COMM"},
    "ptrace": {"TRACER_PID", "TRACER_COMM", "TRACER_EXE"},
}
_ONLY_SOMEWHERE = frozenset[str]().union(*ONLY_IN.values())

# Looked up off the event's path, so that it may be known at the exit and not yet at the exec.
_LATE = frozenset({"USER"})

# What all children of a process have in common.
_OF_PARENT = frozenset({"PARENT_PROCESS_ID", "PARENT_COMM", "PARENT_EXE", "PARENT_CMDLINE", "ANCESTORS"})

# What all have in common who run at the same place as the same user.
_OF_PLACE = frozenset(
    {
        *("UID", "EUID", "GID", "EGID", "LOGINUID", "AUDIT_SESSION", "SESSION", "SID", "CWD", "TTY"),
        *("CGROUP", "UNIT", "USER_UNIT", "SLICE", "CONTAINER_ID", "MOUNT_NAMESPACE", "USER_NAMESPACE"),
    }
)

_OF_DETECTION: dict[str, Callable[[Detection], str]] = {
    "SIGMA_ID": lambda detection: detection.rule_id,
    "SIGMA_TITLE": lambda detection: detection.title,
    "SIGMA_LEVEL": lambda detection: detection.level,
    "SIGMA_TAGS": lambda detection: detection.tags,
    "SIGMA_AUTHOR": lambda detection: detection.author,
}

# How many processes' fields are kept for their next entry.
RECENT_PROCESSES = 512

_Key = TypeVar("_Key")
_Item = TypeVar("_Item")
_Plan = list[tuple[str, Callable[[Record], Value]]]
_ProcessPlan = list[tuple[str, Callable[[Process], Value]]]


@dataclass(slots=True)
class _Known:
    """What the entries about a process have in common. `around` is None while its user is not known."""

    shared: tuple[Shared, ...]
    around: Frame | None


class EntryBuilder:
    """Makes entries as `log.fields` and `log.max-argv` ask for.

    `fields` is "standard", "all", or the names of the fields (without prefix) that are wanted. All arguments and
    variables of the environment go through `redactor`.
    """

    def __init__(
        self, clock: Clock, fields: str | frozenset[str], max_argv_bytes: int, redactor: Redactor
    ) -> None:
        self._clock = clock
        self._redactor = redactor
        self._quoting = redactor.fingerprint << 20 | max_argv_bytes
        self._standard = fields == "standard"
        self._max_argv_bytes = max_argv_bytes
        self.wanted = _wanted(fields)
        self._plans: dict[str, _Plan] = {event: self._plan(event) for event in EVENTS}
        whole = self._process_plan()
        self._of_parent = [step for step in whole if step[0].removeprefix(PREFIX) in _OF_PARENT]
        self._of_place = [step for step in whole if step[0].removeprefix(PREFIX) in _OF_PLACE]
        self._of_itself = [
            step for step in whole if step not in self._of_parent and step not in self._of_place
        ]
        self._recent: dict[Process, _Known] = {}
        self._recent_parents: dict[Process, Shared] = {}
        # By the identity of both, which are never changed once made; they are kept so that it stays theirs.
        self._recent_places: dict[tuple[int, int], tuple[Context, Creds | None, Shared]] = {}

    def _plan(self, event: str) -> _Plan:
        """What the event itself gives to its entries, in order."""
        return [
            (PREFIX + name, field.of_record)
            for name, field in FIELDS.items()
            if name in self.wanted
            and field.of_process is None
            and (name not in _ONLY_SOMEWHERE or name in ONLY_IN.get(event, ()))
        ]

    def _process_plan(self) -> _ProcessPlan:
        """What every entry about a process says of it, in order."""
        shown: dict[str, Callable[[Process], Value]] = {
            "CMDLINE": self.command,
            "PARENT_CMDLINE": lambda p: None if p.parent is None else self.command(p.parent),
        }
        if self._standard:
            shown["EUID"] = _euid_unless_uid
            shown["GID"] = _gid_unless_own
        return [
            (PREFIX + name, shown.get(name, field.of_process))
            for name, field in FIELDS.items()
            if name in self.wanted and name not in _LATE and field.of_process is not None
        ]

    def build(self, record: Record, decision: Decision) -> Entry:
        """The entry of one event."""
        process = record.process
        known = self._recent.get(process) or self._know(process)
        fields: dict[str, FieldValue] = {
            "MESSAGE": self._message(record, decision, known.around or frame(process)),
            "MESSAGE_ID": MESSAGE_IDS[record.event],
            "PRIORITY": str(decision.priority),
            "SYSLOG_IDENTIFIER": "procwatchd",
        }
        for name, read in self._plans[record.event]:
            value = read(record)
            if value is not None:
                fields[name] = str(value) if isinstance(value, int) else value
        if "USER" in self.wanted and process.creds is not None and (user := process.creds.user):
            fields[PREFIX + "USER"] = user
        if record.environment is not None:
            fields |= self._environment(record.environment, is_cut=record.is_environment_cut)
        if decision.rule is not None and "RULE" in self.wanted:
            fields[PREFIX + "RULE"] = decision.rule
        if decision.tags and "TAGS" in self.wanted:
            fields[PREFIX + "TAGS"] = " ".join(decision.tags)
        for name, text in decision.fields:
            fields[PREFIX + name] = text
        if decision.detections:
            fields |= self._sigma_fields(decision.detections[:DETECTIONS_LIMIT])
        realtime_usec = self._clock.realtime_usec(record.monotonic_ns)
        return Entry(fields, realtime_usec, 0 if record.found else 1, known.shared)

    def _know(self, process: Process) -> _Known:
        """What there is of a process, kept for a while: most processes end soon after their exec, as the same."""
        itself = Shared(_values(self._of_itself, process))
        image = process.image
        if image.argv is not None and self._is_cut(image, image.argv):
            self._mark_cut(itself.fields, image)
        shared: tuple[Shared, ...] = (itself, self._know_place(process))
        if process.parent is not None:
            shared = (*shared, self._know_parent(process, process.parent))
        has_user = process.creds is None or process.creds.uid is None or process.creds.user is not None
        known = _Known(shared, frame(process) if has_user else None)
        _keep(self._recent, process, known)
        return known

    def _know_place(self, process: Process) -> Shared:
        context, creds = process.context, process.creds
        key = (id(context), id(creds))
        found = self._recent_places.get(key)
        if found is not None:
            return found[2]
        shared = Shared(_values(self._of_place, process))
        _keep(self._recent_places, key, (context, creds, shared))
        return shared

    def _know_parent(self, process: Process, parent: Process) -> Shared:
        shared = self._recent_parents.get(parent)
        if shared is None:
            shared = Shared(_values(self._of_parent, process))
            _keep(self._recent_parents, parent, shared)
        return shared

    def command(self, process: Process) -> str | None:
        """CMDLINE: the arguments as one could paste them into a shell, cut to `max-argv`, without secrets."""
        image = process.image
        if image.quoted_as != self._quoting and image.argv is not None:
            image.quoted = self._quote(image, image.argv)
            image.quoted_as = self._quoting
        return image.quoted

    def group(self, record: Record, by: tuple[By, ...]) -> str:
        """GROUP: what a record has in common with those of its group, as `exe=/bin/a unit=a.service`."""
        values = [(one.key, self._group_value(record, one)) for one in by]
        return " ".join(f"{key}={quote_argv(value + bytes(1))}" for key, value in values if value is not None)

    def _group_value(self, record: Record, by: By) -> bytes | None:
        value = by.get(record)
        if by.name == "CMDLINE":
            value = self.command(record.process)
        elif by.name == "PARENT_CMDLINE" and record.process.parent is not None:
            value = self.command(record.process.parent)
        if isinstance(value, str):
            value = value.encode("utf-8", "surrogatepass")
        elif isinstance(value, int):
            value = b"%d" % value
        if value is None or len(value) <= VALUE_LIMIT:
            return value
        return value[:VALUE_LIMIT].decode("utf-8", "ignore").encode() + "…".encode()

    def own(self, kind: str, text: str, priority: int = INFO, **fields: object) -> Entry:
        """An entry of the daemon's own, with its fields' names in lower case."""
        monotonic_ns, realtime_usec = self._clock.now()
        entry: dict[str, FieldValue] = {
            "MESSAGE": printable(text),
            "MESSAGE_ID": MESSAGE_IDS[kind],
            "PRIORITY": str(priority),
            "SYSLOG_IDENTIFIER": "procwatchd",
            PREFIX + "EVENT": kind,
            PREFIX + "MONOTONIC_USEC": str(monotonic_ns // 1000),
        }
        for name, value in fields.items():
            if value is not None:
                entry[PREFIX + name.upper()] = value if isinstance(value, list) else str(value)
        return Entry(entry, realtime_usec)

    def _quote(self, image: Image, argv: bytes) -> str:
        if not self._is_cut(image, argv):
            return quote_argv(self._redactor.redact(argv))
        return cut_argv(argv, self._max_argv_bytes, image.argv_bytes, image.argv_tail, self._redactor)

    def _is_cut(self, image: Image, argv: bytes) -> bool:
        return image.argv_bytes > self._max_argv_bytes or len(argv) < image.argv_bytes

    def _environment(self, environment: dict[str, bytes], *, is_cut: bool) -> dict[str, FieldValue]:
        limit = self._max_argv_bytes
        fields: dict[str, FieldValue] = {
            f"{PREFIX}ENV_{name}": cut_variable(name, value, limit, self._redactor)
            for name, value in environment.items()
        }
        is_cut = is_cut or any(len(value) > limit for value in environment.values())
        if is_cut and "ENVIRONMENT_TRUNCATED" in self.wanted:
            fields[PREFIX + "ENVIRONMENT_TRUNCATED"] = "1"
        return fields

    def _sigma_fields(self, detections: Sequence[Detection]) -> dict[str, FieldValue]:
        """Each field once per detection, in the same order."""
        return {
            PREFIX + name: [read(detection) for detection in detections]
            for name, read in _OF_DETECTION.items()
            if name in self.wanted
        }

    def _message(self, record: Record, decision: Decision, around: Frame) -> str:
        if decision.message is None:
            text = message(record, self.command, around)
        else:
            text = printable(decision.message.render(lambda name: self._text(record, decision, name)))
        return detected(decision.detections) + text if decision.detections else text

    def _text(self, record: Record, decision: Decision, name: str) -> str:
        """A field as it reads in a rule's message; empty where it is absent."""
        if name == "RULE":
            return decision.rule or ""
        if name == "TAGS":
            return " ".join(decision.tags)
        process: Process | None = record.process
        if name.startswith("PARENT."):
            process = record.process.parent
            name = name.removeprefix("PARENT.")
            of_process = FIELDS[name].of_process
            value = None if process is None or of_process is None else of_process(process)
        else:
            value = FIELDS[name].of_record(record)
        if name == "CMDLINE" and process is not None:
            value = self.command(process)
        elif name == "PARENT_CMDLINE":
            parent = record.process.parent
            value = None if parent is None else self.command(parent)
        if value is None:
            return ""
        return printable(value) if isinstance(value, bytes | str) else str(value)

    def _mark_cut(self, fields: dict[str, FieldValue], image: Image) -> None:
        if PREFIX + "CMDLINE" not in fields:
            return
        if "ARGV_TRUNCATED" in self.wanted:
            fields[PREFIX + "ARGV_TRUNCATED"] = "1"
        if "ARGV_BYTES" in self.wanted:
            fields[PREFIX + "ARGV_BYTES"] = str(image.argv_bytes)


def _values(plan: _ProcessPlan, process: Process) -> dict[str, FieldValue]:
    fields: dict[str, FieldValue] = {}
    for name, read in plan:
        value = read(process)
        if value is not None:
            fields[name] = str(value) if isinstance(value, int) else value
    return fields


def _keep(recent: dict[_Key, _Item], key: _Key, item: _Item) -> None:
    if len(recent) >= RECENT_PROCESSES:
        recent.clear()
    recent[key] = item


def _wanted(fields: str | frozenset[str]) -> frozenset[str]:
    every = frozenset(FIELDS) | ENTRY_ONLY | SIGMA | {"TAGS"}
    if fields == "all":
        return every
    if fields == "standard":
        return every - NOT_STANDARD
    # Which event and whose is always in it.
    return frozenset(fields) | {"EVENT", "PID"}


def _euid_unless_uid(process: Process) -> int | None:
    creds = process.creds
    return None if creds is None or creds.euid == creds.uid else creds.euid


def _gid_unless_own(process: Process) -> int | None:
    creds = process.creds
    if creds is None or creds.gid is None:
        return None
    if creds.uid is not None and creds.users.primary_gid(creds.uid) == creds.gid:
        return None
    return creds.gid
