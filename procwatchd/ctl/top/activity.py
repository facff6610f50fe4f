# SPDX-License-Identifier: MIT
"""What ran, from entries: counted by executable, unit, user, and how it ended.

What counts: an exec is a start, of the program that was started. An exit is a life, of the program that ran at its end:
so a process that was forked and started no program is a life, and no start. A process that starts three programs one
after the other is three starts and one life. Ends of single threads are neither.
"""

from __future__ import annotations

from bisect import bisect_right

from procwatchd.ctl.past.absent import Absent
from procwatchd.ctl.past.entries import Entry, number, realtime_usec, text_of
from procwatchd.ctl.top.groups import BY_LIVES, BY_STARTS, NAMES_LIMIT, Group, Groups, step_of
from procwatchd.process.fields import EVENTS

# Limits.
NAME_LIMIT = 512  # characters of a name; of a longer one the middle is not told apart
BUCKETS = 60  # parts of a window that slides
BUCKET_NAMES_LIMIT = 1 << 10  # names in each table of such a part

# What lifetimes are told by, in µs: up to 1 ms, …, 1 h and more.
EDGES_USEC = (
    1_000,
    10_000,
    100_000,
    1_000_000,
    10_000_000,
    60_000_000,
    600_000_000,
    3_600_000_000,
)

MINUTE_USEC = 60_000_000


class Activity:
    """What ran in a time; takes entries in any order. Names are clean texts."""

    def __init__(self, names_limit: int = NAMES_LIMIT, after: Absent | None = None) -> None:
        self.entries = 0
        self.first_usec: int | None = None
        self.last_usec: int | None = None
        self.all = Group()
        self.lifetimes = [0] * (len(EDGES_USEC) + 1)
        self.absent = Absent(after)
        self.executables: Groups[str] = Groups(names_limit)
        self.units: Groups[str] = Groups(names_limit)
        self.users: Groups[str] = Groups(names_limit)
        self.hosts: Groups[str] = Groups(names_limit)
        self.minutes: Groups[int] = Groups(names_limit)
        self.failures: Groups[tuple[str, int]] = Groups(names_limit)  # executable, code
        self.signals: Groups[tuple[str, str, str]] = Groups(names_limit)  # signal, executable, killer
        self.summaries: Groups[str] = Groups(names_limit)

    def take(self, entry: Entry) -> None:
        """Count an entry of the daemon's."""
        event = text_of(entry, "EVENT")
        usec = realtime_usec(entry)
        self.entries += 1
        if usec is not None:
            self._note(usec, usec)
        if "PROCWATCH_TID" in entry:
            return
        if event == "exec":
            for group in self._groups(entry, usec):
                group.starts += 1
        elif event == "exit":
            self._end(entry, usec)
        elif event not in EVENTS:
            self.take_account(event, entry)

    def take_account(self, kind: str, entry: Entry) -> None:
        """Count what an entry of the daemon's own, of this kind, says of events that have none."""
        self.absent.take(kind, entry)
        if kind == "summary":
            what = text_of(entry, "GROUP") or text_of(entry, "RULE") or "over the limit"
            self.summaries.of(_cut(what)).lives += number(entry, "COUNT") or 0

    def add(self, other: Activity) -> None:
        """Take in what another one counted."""
        self.entries += other.entries
        if other.first_usec is not None and other.last_usec is not None:
            self._note(other.first_usec, other.last_usec)
        self.all.add(other.all)
        self.lifetimes = [a + b for a, b in zip(self.lifetimes, other.lifetimes, strict=True)]
        self.absent.add(other.absent)
        for name, groups in vars(self).items():
            if isinstance(groups, Groups):
                groups.add(getattr(other, name))

    @property
    def busiest_minute(self) -> tuple[int, int] | None:
        """When it began, in s since 1970, and how many starts it had, or lives where nothing was started."""
        rank = BY_STARTS if self.all.starts else BY_LIVES
        return next(((minute * 60, rank(group)) for minute, group in self.minutes.most(rank, 1)), None)

    def _note(self, first_usec: int, last_usec: int) -> None:
        if self.first_usec is None or first_usec < self.first_usec:
            self.first_usec = first_usec
        if self.last_usec is None or last_usec > self.last_usec:
            self.last_usec = last_usec

    def _groups(self, entry: Entry, usec: int | None) -> list[Group]:
        """Whatever an entry counts for, its executable first."""
        user = text_of(entry, "USER") or text_of(entry, "UID") or "?"
        groups = [
            self.executables.of(_executable(entry)),
            self.all,
            self.units.of(_unit(entry, user)),
            self.users.of(_cut(user)),
        ]
        host = entry.get("_HOSTNAME")
        if isinstance(host, str):
            groups.append(self.hosts.of(_cut(host)))
        if usec is not None:
            groups.append(self.minutes.of(usec // MINUTE_USEC))
        return groups

    def _end(self, entry: Entry, usec: int | None) -> None:
        code, signal = number(entry, "EXIT_CODE"), text_of(entry, "EXIT_SIGNAL")
        cpu_usec, memory_peak = number(entry, "CPU_USEC"), number(entry, "MEMORY_PEAK")
        has_failed = None if code is None and not signal else bool(signal or code)
        groups = self._groups(entry, usec)
        for group in groups:
            group.end(cpu_usec, memory_peak, has_failed=has_failed)
        duration_usec = number(entry, "DURATION_USEC")
        if duration_usec is not None:
            groups[0].lifetimes[step_of(duration_usec)] += 1
            self.lifetimes[bisect_right(EDGES_USEC, duration_usec)] += 1
        if signal:
            self.signals.of((_cut(signal), _executable(entry), _killer(entry))).lives += 1
        elif code:
            self.failures.of((_executable(entry), code)).lives += 1


class Window:
    """The activity of the last while, in parts that are forgotten one by one."""

    def __init__(self, usec: int) -> None:
        self.usec = usec
        self._width_usec = max(1, usec // BUCKETS)
        self._parts: dict[int, Activity] = {}
        self._latest: Absent | None = None

    def take(self, entry: Entry, now_usec: int) -> None:
        """Count an entry, if it is of this window; one from later is of now."""
        self._slide(now_usec)
        at = min(realtime_usec(entry) or now_usec, now_usec) // self._width_usec
        if at <= now_usec // self._width_usec - BUCKETS:
            return
        part = self._parts.get(at)
        if part is None:
            part = self._parts[at] = Activity(BUCKET_NAMES_LIMIT, self._latest)
            self._latest = part.absent
        part.take(entry)

    def sum(self, now_usec: int) -> Activity:
        """All of it."""
        self._slide(now_usec)
        # A daemon that was stopped before is stopped still.
        total = Activity(after=self._latest)
        for part in self._parts.values():
            total.add(part)
        return total

    def _slide(self, now_usec: int) -> None:
        oldest = now_usec // self._width_usec - BUCKETS
        for at in [at for at in self._parts if at <= oldest]:
            del self._parts[at]


def _executable(entry: Entry) -> str:
    """The path; where that is not known, the name as ps(1) has it then."""
    return _cut(text_of(entry, "EXE")) or f"[{_cut(text_of(entry, 'COMM')) or '?'}]"


def _unit(entry: Entry, user: str) -> str:
    """The unit; one of a user's own is not to be taken for the system's of that name."""
    own = text_of(entry, "USER_UNIT")
    if own:
        return _cut(f"{own} ({user})")
    return _cut(text_of(entry, "UNIT")) or "(no unit)"


def _killer(entry: Entry) -> str:
    if "PROCWATCH_OOM_KILLED" in entry:
        return "the kernel, out of memory"
    pid = text_of(entry, "KILLER_PID")
    if not pid:
        return "?"
    if pid == text_of(entry, "PID"):
        return "itself"
    return _cut(text_of(entry, "KILLER_EXE")) or f"[{_cut(text_of(entry, 'KILLER_COMM')) or '?'}]"


def _cut(name: str) -> str:
    return name if len(name) <= NAME_LIMIT else f"{name[: NAME_LIMIT // 2]}…{name[-NAME_LIMIT // 2 + 1 :]}"
