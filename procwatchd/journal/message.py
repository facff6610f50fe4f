# SPDX-License-Identifier: MIT
"""The MESSAGE of an event: one line of printable text that stands alone.

    exec rsync[4711] root: rsync -a /srv backup:/srv (cron[912] cron.service)
    exit rsync[4711] root: code 23 after 3.2s (CPU 2.1s, 84 MiB): rsync -a /srv backup:/srv (cron[912] cron.service)

First the event, then who: comm, PID and user; then what; last where it came from: the parent and the unit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from procwatchd.journal.quote import printable
from procwatchd.process.fields import FIELDS, exit_code, exit_signal
from procwatchd.process.model import Process, Record
from procwatchd.process.tally import Usage
from procwatchd.rules.detection import Detection
from procwatchd.rules.summary import Summary

# Less goes without saying.
CPU_SHOWN_USEC = 100_000
MEMORY_SHOWN_BYTES = 64 << 20

Show = Callable[[Process], str | None]


class Frame(NamedTuple):
    """What stands around what happened, whatever it is: who, which user's, and where it came from."""

    name: str
    user: str
    origin: str


def frame(process: Process) -> Frame:
    """That of a process."""
    return Frame(_name(process), _user(process), _origin(process))


def message(record: Record, show_command: Show, around: Frame) -> str:
    """The text for a record; `show_command` gives a process's CMDLINE as it is written."""
    what = _WHAT[record.event](record, show_command)
    tid = "" if record.tid is None else f" thread {record.tid}"
    return f"{record.event} {around.name}{tid}{around.user}: {what}{around.origin}"


def detected(detections: Sequence[Detection]) -> str:
    """What stands before the text where Sigma rules matched: `Sigma high: Shell of a Web Server, and 2 more: `."""
    first, *others = detections
    level = f" {first.level}" if first.level else ""
    more = f", and {len(others)} more" if others else ""
    return f"Sigma{level}: {printable(first.title)}{more}: "


def _name(process: Process) -> str:
    return _named(process.comm, process.pid)


def _named(comm: bytes | None, pid: int) -> str:
    name = "?" if comm is None else printable(comm)
    if "[" in name:
        name = name.replace("[", "\\x5b")  # a comm must not look like a name with its PID
    return f"{name}[{pid}]"


def _user(process: Process) -> str:
    creds = process.creds
    if creds is None or creds.uid is None:
        return ""
    user = creds.user
    return f" uid {creds.uid}" if user is None else f" {printable(user)}"


def _origin(process: Process) -> str:
    """` (cron[912] cron.service)`: the parent, and the closest thing to a unit."""
    words = []
    if process.parent is not None:
        words.append(_name(process.parent))
    elif process.ppid is not None:
        words.append(f"?[{process.ppid}]")
    place = process.context.place
    if place is not None:
        unit = place.user_unit or place.unit
        if unit:
            words.append(printable(unit))
        if place.container_id:
            words.append(f"container {printable(place.container_id[:12])}")
    return f" ({' '.join(words)})" if words else ""


def _what_exec(record: Record, show_command: Show) -> str:
    command = show_command(record.process)
    if command is None:
        return _UNREAD[record.identity]
    return f"found running afterwards: {command}" if record.found else command


_UNREAD = {
    "same": "its arguments could not be read",
    "gone": "it had ended before its arguments could be read",
    "reused": "its PID was another's before its arguments could be read",
    "unknown": "its arguments could not be read for certain",
}


def _what_exit(record: Record, show_command: Show) -> str:
    status = record.wait_status
    signal = exit_signal(status)
    if signal is not None:
        end = f"killed by {signal}{_sender(record)}"
        if status is not None and status & 0x80:
            end += ", core dumped"
    elif status is None:
        end = "nobody knows how"
    else:
        end = f"code {exit_code(status)}"
    usec = FIELDS["DURATION_USEC"].of_record(record)
    if isinstance(usec, int):
        end += f" after {duration(1000 * usec)}{_took(record.usage)}"
    if record.found:
        end += ", found afterwards"
    return end + _command(record, show_command)


def _sender(record: Record) -> str:
    """` from systemd-oomd[812]`: who sent the signal that ended it, where that is known."""
    if record.is_oom_killed:
        return " from the kernel, which was out of memory"
    killer = record.killer
    if killer is None:
        return ""
    return " from itself" if killer.pid == record.process.pid else f" from {_named(killer.comm, killer.pid)}"


def _took(usage: Usage | None) -> str:
    """` (CPU 2.9s, 120 MiB)`, as far as it is worth a word."""
    if usage is None:
        return ""
    words = []
    if (usage.cpu_usec or 0) >= CPU_SHOWN_USEC:
        words.append(f"CPU {duration(1000 * (usage.cpu_usec or 0))}")
    if (usage.memory_peak or 0) >= MEMORY_SHOWN_BYTES:
        words.append(f"{(usage.memory_peak or 0) >> 20} MiB")
    return f" ({', '.join(words)})" if words else ""


def duration(nanoseconds: int) -> str:
    """A span for people, to two or three digits: 840us, 3.2ms, 17s, 5min 3s, 2h 10min, 3d 4h."""
    microseconds = max(0, nanoseconds) // 1000
    if microseconds < 1000:
        return f"{microseconds}us"
    if microseconds < 1_000_000:
        return f"{microseconds / 1000:.3g}ms" if microseconds < 999_500 else "1s"
    if microseconds < 60_000_000:
        return f"{microseconds / 1_000_000:.3g}s"
    minutes, seconds = divmod(microseconds // 1_000_000, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours}h"
    if hours:
        return f"{hours}h {minutes}min"
    return f"{minutes}min {seconds}s"


def _command(record: Record, show_command: Show) -> str:
    """`: COMMAND`, where it is known; after `forked from` where it is the parent's."""
    command = show_command(record.process)
    if not command:
        return ""
    return f": fork of {command}" if record.process.inherited else f": {command}"


def _what_fork(record: Record, show_command: Show) -> str:
    if record.tid is not None:
        return "new thread"
    return ("found running afterwards" if record.found else "new process") + _command(record, show_command)


def _ids(record: Record, name: str) -> str:
    """`uid 1000 to 0` and, where it goes another way, `effective uid 0`."""
    before, now = record.before, record.process.creds
    old = None if before is None or before.creds is None else before.creds
    real, effective = (getattr(now, name, None), getattr(now, f"e{name}", None))
    old_real, old_effective = (getattr(old, name, None), getattr(old, f"e{name}", None))
    changes = []
    if real != old_real:
        changes.append(f"{name} {or_unknown(old_real)} to {real}")
    if effective != old_effective and not (real == effective and old_real == old_effective):
        changes.append(f"effective {name} {or_unknown(old_effective)} to {effective}")
    return ", ".join(changes)


def or_unknown(value: int | None) -> str:
    """A number for people, who may not know it either."""
    return "unknown" if value is None else str(value)


def _what_ptrace(record: Record, show_command: Show) -> str:
    if record.tracer_pid is None:
        return "no longer traced" + _command(record, show_command)
    tracer = record.tracer
    by = f"?[{record.tracer_pid}]" if tracer is None else _name(tracer) + _user(tracer)
    return f"traced by {by}" + _command(record, show_command)


def _what_comm(record: Record, show_command: Show) -> str:
    before = record.before
    old = "?" if before is None or before.comm is None else printable(before.comm)
    return f"was {old}" + _command(record, show_command)


def summary_message(summary: Summary) -> str:
    """The text for what was silenced: how much, why, and an example."""
    suppression = summary.suppression
    why = f"over the limit of rule {suppression.rule}"
    if suppression.of_all:
        why = "over log.limit" if suppression.rule is None else f"of rule {suppression.rule} over log.limit"
    elif suppression.rate is None:
        why = f"counted by rule {suppression.rule}"
    noun = "event" if summary.count == 1 else "events"
    span_ns = summary.until_ns - summary.since_ns
    span = f" in {duration(span_ns)}" if span_ns else ""
    group = "others" if summary.group is None else summary.group
    example = next(iter(summary.samples.values()), "")
    return (
        f"summary: {summary.count} {noun} {why}{span}"
        + (f" ({group})" if group else "")
        + (f", such as: {example}" if example else "")
    )


_WHAT: dict[str, Callable[[Record, Show], str]] = {
    "fork": _what_fork,
    "exec": _what_exec,
    "exit": _what_exit,
    "uid": lambda record, show: _ids(record, "uid") + _command(record, show),
    "gid": lambda record, show: _ids(record, "gid") + _command(record, show),
    "sid": lambda record, show: f"new session {record.process.context.sid}" + _command(record, show),
    "ptrace": _what_ptrace,
    "comm": _what_comm,
    "coredump": lambda record, show: "dumps core" + _command(record, show),
}
