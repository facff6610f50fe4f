# SPDX-License-Identifier: MIT
"""Every field there is: its name, what kind of value it has, and how a record gives it.

Rules match on these values and entries write them, so that a name means one thing. A getter gives None where
the value is unknown or does not apply.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from procwatchd.process.ends import CONNECTOR, TASKSTATS
from procwatchd.process.model import Process, Record

Value = str | bytes | int | None

EVENTS = ("fork", "exec", "exit", "uid", "gid", "sid", "ptrace", "comm", "coredump")
IDENTITIES = ("same", "reused", "gone", "unknown")
SOURCES = ("proc", "recorder", "inherited", "table", "none")


class Kind(Enum):
    """What a field's values are, and so how they can be matched."""

    NUMBER = "number"  # int
    TEXT = "text"  # bytes or str
    WORD = "word"  # str, one of a few


@dataclass(frozen=True, slots=True)
class Field:
    """One field. `of_process` is None for what belongs to the event alone; then `parent.` has none of it."""

    name: str
    kind: Kind
    of_record: Callable[[Record], Value]
    of_process: Callable[[Process], Value] | None = None
    words: tuple[str, ...] = ()


def command_line(process: Process) -> bytes | None:
    """The arguments joined by single spaces: what `cmdline` means in a rule. Where they are cut, head and tail."""
    image = process.image
    argv = image.argv
    if argv is None:
        return None
    if image.argv_tail:
        argv += b"\0" + image.argv_tail
    return (argv[:-1] if argv.endswith(b"\0") else argv).replace(b"\0", b" ")


def exit_code(wait_status: int | None) -> int | None:
    """The code that a process ended with by itself."""
    if wait_status is None or wait_status & 0x7F:
        return None
    return wait_status >> 8 & 0xFF


def exit_signal(wait_status: int | None) -> str | None:
    """The name of the signal that ended a process; its number where it has no name here."""
    if wait_status is None or not wait_status & 0x7F:
        return None
    return signal_name(wait_status & 0x7F)


def signal_name(number: int) -> str:
    """SIGSEGV for 11, SIGRTMIN+1 for 35, and SIG32 for what has no name."""
    if number > signal.SIGRTMIN:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"


def ancestors_text(process: Process) -> bytes | None:
    """`bash[4700] sshd[900] systemd[1]`, nearest first; what would look like another name is escaped in a comm."""
    found = process.ancestors()
    if not found:
        return None
    return b" ".join([b"%b[%d]" % (_one_word(p.comm), p.pid) for p in found])


def _one_word(comm: bytes | None) -> bytes:
    if comm is None:
        return b"?"
    return comm if comm.isalnum() else _NOT_IN_A_WORD.sub(lambda found: b"\\x%02x" % found[0][0], comm)


_NOT_IN_A_WORD = re.compile(rb"[\x00-\x20\[\]\\\x7f]")


def _of_process(name: str, kind: Kind, read: Callable[[Process], Value]) -> Field:
    return Field(name, kind, lambda record: read(record.process), read)


def _of_parent(name: str, read: Callable[[Process], Value]) -> Field:
    def of_process(process: Process) -> Value:
        return None if process.parent is None else read(process.parent)

    return _of_process(name, Kind.TEXT, of_process)


def _of_before(name: str, kind: Kind, event: str, read: Callable[[Process], Value]) -> Field:
    def of_record(record: Record) -> Value:
        return None if record.before is None or record.event != event else read(record.before)

    return Field(name, kind, of_record)


def _of_tracer(name: str, read: Callable[[Process], Value]) -> Field:
    return Field(name, Kind.TEXT, lambda record: None if record.tracer is None else read(record.tracer))


def _uid(process: Process) -> int | None:
    return None if process.creds is None else process.creds.uid


def _euid(process: Process) -> int | None:
    return None if process.creds is None else process.creds.euid


def _gid(process: Process) -> int | None:
    return None if process.creds is None else process.creds.gid


def _egid(process: Process) -> int | None:
    return None if process.creds is None else process.creds.egid


def _user(process: Process) -> str | None:
    return None if process.creds is None else process.creds.user


def _comm(process: Process) -> bytes | None:
    return process.comm


def _exe(process: Process) -> bytes | None:
    return process.image.exe


def _of_place(name: str, attribute: str) -> Field:
    def read(process: Process) -> bytes | None:
        place = process.context.place
        return None if place is None else getattr(place, attribute)

    return _of_process(name, Kind.TEXT, read)


def _parent_process_id(process: Process) -> str | None:
    return None if process.parent is None else process.parent.process_id


def _duration_usec(record: Record) -> int | None:
    """Since the process was forked: as the kernel recorded it, else between the FORK and the EXIT."""
    forked_ns = record.process.forked_ns
    if record.usage is None:
        return None
    if record.usage.duration_usec is not None:
        return record.usage.duration_usec
    if forked_ns is None or record.wait_status is None:
        return None
    return max(0, record.monotonic_ns - forked_ns) // 1000


def _of_usage(name: str, attribute: str) -> Field:
    def of_record(record: Record) -> int | None:
        return None if record.usage is None else getattr(record.usage, attribute)

    return Field(name, Kind.NUMBER, of_record)


def _of_killer(name: str, kind: Kind, attribute: str) -> Field:
    def of_record(record: Record) -> Value:
        return None if record.killer is None else getattr(record.killer, attribute)

    return Field(name, kind, of_record)


def _core_dumped(record: Record) -> int | None:
    status = record.wait_status
    return 1 if status is not None and status & 0x80 and status & 0x7F else None


_N, _T, _W = Kind.NUMBER, Kind.TEXT, Kind.WORD

FIELDS: dict[str, Field] = {
    field.name: field
    for field in (
        Field("EVENT", _W, lambda r: r.event, words=EVENTS),
        _of_process("PID", _N, lambda p: p.pid),
        Field("TID", _N, lambda r: r.tid),
        _of_process("PPID", _N, lambda p: p.ppid),
        _of_process("PROCESS_ID", _T, lambda p: p.process_id),
        _of_process("PARENT_PROCESS_ID", _T, _parent_process_id),
        _of_process("COMM", _T, _comm),
        _of_process("EXE", _T, _exe),
        _of_process("CWD", _T, lambda p: p.context.cwd),
        _of_process("TTY", _T, lambda p: p.context.tty),
        Field("FILENAME", _T, lambda r: r.filename),
        _of_process("CMDLINE", _T, command_line),
        _of_process("UID", _N, _uid),
        _of_process("EUID", _N, _euid),
        _of_process("GID", _N, _gid),
        _of_process("EGID", _N, _egid),
        _of_process("USER", _T, _user),
        _of_process("LOGINUID", _N, lambda p: p.context.loginuid),
        _of_process("AUDIT_SESSION", _N, lambda p: p.context.audit_session),
        _of_place("SESSION", "session"),
        _of_process("SID", _N, lambda p: p.context.sid),
        _of_place("CGROUP", "cgroup"),
        _of_place("UNIT", "unit"),
        _of_place("USER_UNIT", "user_unit"),
        _of_place("SLICE", "slice"),
        _of_place("CONTAINER_ID", "container_id"),
        _of_process("MOUNT_NAMESPACE", _N, lambda p: p.context.mount_namespace),
        _of_process("USER_NAMESPACE", _N, lambda p: p.context.user_namespace),
        _of_parent("PARENT_COMM", _comm),
        _of_parent("PARENT_EXE", _exe),
        _of_parent("PARENT_CMDLINE", command_line),
        _of_process("ANCESTORS", _T, ancestors_text),
        Field("MONOTONIC_USEC", _N, lambda r: r.monotonic_ns // 1000),
        Field("LAG_USEC", _N, lambda r: None if r.lag_ns is None else r.lag_ns // 1000),
        Field("IDENTITY", _W, lambda r: r.identity, words=IDENTITIES),
        Field("SOURCE", _W, lambda r: r.source, words=SOURCES),
        Field("EXIT_CODE", _N, lambda r: exit_code(r.wait_status)),
        Field("EXIT_SIGNAL", _T, lambda r: exit_signal(r.wait_status)),
        Field("CORE_DUMPED", _N, _core_dumped),
        _of_killer("KILLER_PID", _N, "pid"),
        _of_killer("KILLER_COMM", _T, "comm"),
        _of_killer("KILLER_EXE", _T, "exe"),
        _of_killer("KILLER_UID", _N, "uid"),
        Field("OOM_KILLED", _N, lambda r: 1 if r.is_oom_killed else None),
        Field("EXIT_SOURCE", _W, lambda r: r.end_source, words=(TASKSTATS, CONNECTOR)),
        Field("DURATION_USEC", _N, _duration_usec),
        _of_usage("CPU_USEC", "cpu_usec"),
        _of_usage("MEMORY_PEAK", "memory_peak"),
        _of_usage("IO_READ_BYTES", "io_read_bytes"),
        _of_usage("IO_WRITE_BYTES", "io_write_bytes"),
        Field("RESYNC", _N, lambda r: 1 if r.found else None),
        _of_before("OLD_UID", _N, "uid", _uid),
        _of_before("OLD_EUID", _N, "uid", _euid),
        _of_before("OLD_GID", _N, "gid", _gid),
        _of_before("OLD_EGID", _N, "gid", _egid),
        _of_before("OLD_COMM", _T, "comm", _comm),
        Field("TRACER_PID", _N, lambda r: r.tracer_pid),
        _of_tracer("TRACER_COMM", _comm),
        _of_tracer("TRACER_EXE", _exe),
        Field("SHA256", _T, lambda r: r.sha256),
        Field("HASH_LATE", _N, lambda r: 1 if r.is_hash_late else None),
    )
}

# Decided while the entry is made, so that no rule can ask for them.
ENTRY_ONLY = frozenset({"ARGV_TRUNCATED", "ARGV_BYTES", "ENVIRONMENT_TRUNCATED", "RULE"})
