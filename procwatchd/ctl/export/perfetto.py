# SPDX-License-Identifier: MIT
"""The lives of processes as trace events, which ui.perfetto.dev and other viewers draw: a track for each process.

Facts:
- A trace is a JSON array of events; `ph` says what one is: X a slice from `ts` on for `dur` µs, i an instant, M a name
  [Trace Event Format].
- A slice is drawn on the track of its tid, in the group of its pid; slices of one track have to nest
  [perfetto.dev/docs, Chrome JSON format].
- Names of tracks go by the tid alone, and a tid that is some pid is that process's main thread; both are 32 bits wide
  [Perfetto's trace processor, json_trace_parser_impl.cc].

So pid and tid are numbers that nothing else has: a tid for each life, as PIDs come again, a pid for each boot of a
host. A life is written when it ends: what is kept are the living.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from procwatchd.ctl.export.typed import LeftOutError, event_usec
from procwatchd.ctl.lives.lives import BOOTS_LIMIT, IMAGES_LIMIT, Image, Life, Lives
from procwatchd.ctl.past.entries import Entry, full_text_of, number, text_of
from procwatchd.journal.kinds import PREFIX
from procwatchd.journal.quote import printable
from procwatchd.process.fields import EVENTS

# Limits.
TEXT_LIMIT = 4096  # characters of a value
GROUPS_LIMIT = 2 * BOOTS_LIMIT  # boots that are remembered: longer than who lives in them
TIME_LIMIT_USEC = (1 << 63) // 1000  # viewers count ns in 64 bits

Event: TypeAlias = dict[str, Any]

_IN_SLICES = ("fork", "exec", "exit")
_OF_HOST = ("start", "stop", "loss", "blind", "resync")
# Of which the daemon says from when to when.
_GAPS = {"loss": "events lost", "blind": "blind", "start": "nobody listened"}
_encode = json.JSONEncoder(separators=(",", ":")).encode


@dataclass(slots=True)
class _Group:
    """A boot of a host: its pid, the tid for what the daemon tells of it, and the time of its last entry.

    `taken_usec` is up to when the daemon's track has slices.
    """

    pid: int
    tid: int
    until_usec: int = 0
    taken_usec: int = 0


class Trace:
    """Takes entries in their order, and gives the text of the trace as far as it is known."""

    def __init__(self) -> None:
        self.lives = Lives(self._end)
        self._written: list[str] = []
        self._ids = 0
        self._groups: dict[str, _Group] = {}  # by the boot
        # Of lives whose first program came by an exec, as long as they live.
        self._executed: set[Life] = set()
        # Of what ended with the entry that was read last.
        self._ended: list[Life] = []

    def begin(self) -> str:
        """What is before all events."""
        return "["

    def take(self, entry: Entry) -> str:
        """What can be written by now. Raises LeftOutError for what cannot be drawn."""
        event, usec = text_of(entry, "EVENT"), event_usec(entry)
        if event not in EVENTS and event not in _OF_HOST:
            raise LeftOutError("of the daemon's own")
        if usec >= TIME_LIMIT_USEC:
            raise LeftOutError("of a time that is too late for a trace")
        group = self._group(full_text_of(entry, "_BOOT_ID"), full_text_of(entry, "_HOSTNAME"))
        group.until_usec = max(group.until_usec, usec)
        message = full_text_of(entry, "MESSAGE") or event
        if event in _OF_HOST:
            self._instant(event, usec, group.pid, group.tid, message)
            self._gap(event, entry, usec, group, message)
            return self._taken()
        self._ended.clear()
        life = self.lives.take(entry)
        if life is None:
            raise LeftOutError("without a process")
        if event in _IN_SLICES and PREFIX + "TID" not in entry and self._had_ended(life):
            raise LeftOutError("of a process that had ended, or there twice")
        if event == "exec" and len(life.images) == 1 and life.until_usec is None:
            self._executed.add(life)
        if event not in _IN_SLICES:
            self._instant(event, usec, group.pid, self._track(life), message)
        return self._taken()

    def end(self) -> Iterator[str]:
        """The rest: those that live on, and what is after all events."""
        for life in self.lives.living.values():
            self._end(life)
            yield self._taken()
        yield self._taken() + ("\n]\n" if self._ids else "]\n")

    def _taken(self) -> str:
        taken = "".join(self._written)
        self._written.clear()
        return taken

    def _write(self, event: Event, *, is_first: bool = False) -> None:
        self._written.append(f"{'' if is_first else ','}\n{_encode(event)}")

    def _number(self) -> int:
        self._ids += 1
        return self._ids

    def _had_ended(self, life: Life) -> bool:
        """Whether it had before the entry that was read last."""
        return life.until_usec is not None and life not in self._ended

    def _group(self, boot: str, host: str) -> _Group:
        found = self._groups.get(boot)
        if found is not None:
            return found
        if len(self._groups) == GROUPS_LIMIT:
            del self._groups[next(iter(self._groups))]
        is_first = not self._ids
        group = self._groups[boot] = _Group(self._number(), self._number())
        name = f"{host or '?'}, boot {boot[:8] or '?'}"
        self._write(_named("process_name", group.pid, group.tid, name), is_first=is_first)
        self._write(_named("thread_name", group.pid, group.tid, "procwatchd"))
        return group

    def _track(self, life: Life) -> int:
        """The tid of a life, which it has from now on."""
        if life.place is None:
            life.place = self._number()
        number: int = life.place
        return number

    def _instant(self, name: str, usec: int, group: int, track: int, message: str) -> None:
        place = {"ph": "i", "s": "t", "pid": group, "tid": track}
        self._write({"name": name, "cat": "event", **place, "ts": usec, "args": {"message": _short(message)}})

    def _gap(self, event: str, entry: Entry, usec: int, group: _Group, message: str) -> None:
        """Draw from when to when nobody heard of events, as far as that is told, and not drawn before."""
        told, since, until = (number(entry, f"{name}_USEC") for name in ("MONOTONIC", "SINCE", "UNTIL"))
        if event not in _GAPS or told is None or since is None or until is None or until > told:
            return
        ahead = usec - told
        begin, end = max(0, since + ahead, group.taken_usec), until + ahead
        if begin < end:
            group.taken_usec = end
            args = {"message": _short(message), "lasted_usec": until - since}
            place = {"ph": "X", "pid": group.pid, "tid": group.tid, "ts": begin, "dur": end - begin}
            self._write({"name": _GAPS[event], "cat": "event", **place, "args": args})

    def _end(self, life: Life) -> None:
        """Write a life; one that has no end, up to the last entry of its boot."""
        self._ended.append(life)
        group, track = self._group(life.key[0], life.host), self._track(life)
        self._write(_named("thread_name", group.pid, track, f"{life.comm or '?'}[{life.pid}]"))
        until = group.until_usec if life.until_usec is None else life.until_usec
        was_forked = life in self._executed
        self._executed.discard(life)
        for name, since, to, args in _slices(life, max(until, life.since_usec), was_forked=was_forked):
            place = {"ph": "X", "pid": group.pid, "tid": track, "ts": since, "dur": to - since}
            self._write({"name": name, "cat": "program", **place, "args": args})
        if life.exit_signal:
            self._instant(life.exit_signal, until, group.pid, track, life.status)


def _slices(life: Life, until: int, *, was_forked: bool) -> Iterator[tuple[str, int, int, Event]]:
    """What it ran: each program's name, from when to when, one after the other, and what there is to say."""
    programs: list[tuple[str, int, Event]] = [(_name(one), one.since_usec, _args(one)) for one in life.images]
    if not programs:
        programs.append((_short(life.comm or "?"), life.since_usec, {}))
    elif len(programs) == IMAGES_LIMIT:
        programs.insert(0, ("earlier programs", life.since_usec, {}))
    elif was_forked and programs[0][1] > life.since_usec:
        programs.insert(
            0, ("forked", life.since_usec, {"program": "its parent's, or one that is in no entry here"})
        )
    at = life.since_usec
    for place, (name, _, args) in enumerate(programs, 1):
        is_last = place == len(programs)
        to = until if is_last else min(max(at, programs[place][1]), until)
        yield name, at, to, args | _about(life) | (_fate(life) if is_last else {})
        at = to


def _name(image: Image) -> str:
    return _short(image.exe.rpartition("/")[2] or image.command.partition(" ")[0] or "?")


def _args(image: Image) -> Event:
    return _without_absent({"command": _short(image.command), "exe": _short(image.exe)})


def _about(life: Life) -> Event:
    """Who it was, for each of its slices."""
    parent = life.parent
    return _without_absent(
        {
            "pid": life.pid,
            "parent": "" if parent is None else f"{parent.comm or '?'}[{parent.pid}]",
            "user": _short(life.user),
            "unit": _short(life.unit),
            "session": _short(life.session),
            "container": _short(life.container),
            "tags": _short(life.tags),
            "started": "" if life.is_since_known else "before: this is when it was first heard of",
        }
    )


def _fate(life: Life) -> Event:
    """What became of it, for the last of its slices."""
    return _without_absent(
        {
            "status": "no end in these entries" if life.until_usec is None else life.status,
            "exit_code": life.exit_code,
            "duration_usec": life.duration_usec,
            "cpu_usec": life.cpu_usec,
            "memory_peak_bytes": life.memory_peak,
        }
    )


def _without_absent(found: Event) -> Event:
    return {name: value for name, value in found.items() if value is not None and value != ""}


def _named(what: str, group: int, track: int, name: str) -> Event:
    return {"name": what, "ph": "M", "pid": group, "tid": track, "args": {"name": _short(name)}}


def _short(text: str) -> str:
    shown = printable(text)
    return shown if len(shown) <= TEXT_LIMIT else f"{shown[: TEXT_LIMIT - 1]}…"
