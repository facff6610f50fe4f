# SPDX-License-Identifier: MIT
"""From entries to the lives of processes: who was whose child, from when to when, and how it ended.

Facts:
- PROCESS_ID names one life of one boot; PIDs come again [procwatchd.fields(7)].
- Rules may drop any event: a process may be known by its exec alone, by its end alone, or only as somebody's parent.
- ANCESTORS has names and PIDs, nearest first; of the parent there is more in PARENT_… [the same]. Who is named there
  may have ended since, and the PID be another's.
- No process starts before those that it descends from: the kernel keeps the start over an exec [proc(5)].
- A start counts the time that the machine slept, MONOTONIC_USEC does not [proc(5), clock_gettime(2)]: as nothing starts
  after its own entries, a start that is ahead of them tells for how long it slept, at least.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from procwatchd.ctl.past.entries import (
    TIME_LIMIT_USEC,
    Entry,
    full_text_of,
    kernel_usec,
    number,
    realtime_usec,
    text_of,
)
from procwatchd.process.fields import EVENTS
from procwatchd.process.model import ANCESTOR_LIMIT

# Limits.
LIVING_LIMIT = 1 << 18  # at a time; above, those that were heard of least recently are taken to have ended
IMAGES_LIMIT = 8  # programs of one process that are kept, the last ones
ENDED_LIMIT = 1 << 12  # that ended last, and are still found as parents: of what goes on in the background
LINE_LIMIT = 128  # ancestors; what would have more begins a line of its own
BOOTS_LIMIT = 1 << 14  # of machines, at a time; above, what lived in the first of them is taken to have ended

NAMES_LIMIT = 4096  # users whose names are kept

CLOCK_SET_USEC = 60_000_000  # an entry is never that late: the clock was set
TICK_USEC = 10_000  # of the starts in PROCESS_ID: all kernels tell these by the hundredth [proc(5)]

Key: TypeAlias = tuple[str, str]  # the boot and the PROCESS_ID, or what stands for it

_ANCESTOR = re.compile(r"(\S+)\[([0-9]{1,10})\]")
_PROCESS_ID = re.compile(r"([0-9]{1,10})-([0-9]{1,20})(?:\.([0-9]{1,9}))?")


@dataclass(slots=True, eq=False)
class Image:
    """A program that a process ran: since when, its path, and its command line; clean text, "" where unknown."""

    since_usec: int
    exe: str
    command: str


@dataclass(slots=True, eq=False)
class Life:
    """A process, as far as entries tell. Texts are clean, and "" where unknown; times are µs since 1970.

    `is_seen`: there were entries of its own, not of its children's alone. `since_usec` is when it was forked if
    `is_since_known`, else when it was first heard of. A `unit` of a user's own has the user behind it, in parentheses.
    `until_usec` is None while it lives, as far as is known;
    `is_end_known`: by an entry, else it is only known to be gone. `begun_by` is a start, in clock ticks since boot,
    that its own is not after, by what descends from it. `place` is for whoever puts it somewhere.
    """

    key: Key
    pid: int
    parent: Life | None = None
    host: str = ""
    comm: str = ""
    user: str = ""
    unit: str = ""
    session: str = ""
    container: str = ""
    tags: str = ""
    images: list[Image] = field(default_factory=list)
    is_seen: bool = False
    since_usec: int = 0
    is_since_known: bool = False
    until_usec: int | None = None
    is_end_known: bool = False
    exit_code: int | None = None
    exit_signal: str = ""
    is_oom_killed: bool = False
    killer: str = ""
    duration_usec: int | None = None
    cpu_usec: int | None = None
    memory_peak: int | None = None
    begun_by: int | None = None
    place: Any = None

    @property
    def exe(self) -> str:
        """The path of what it ran last."""
        return self.images[-1].exe if self.images else ""

    @property
    def command(self) -> str:
        """Its last command line; the path or the name where that is not known."""
        last = self.images[-1] if self.images else None
        return (last and (last.command or last.exe)) or self.comm or "?"

    @property
    def has_failed(self) -> bool:
        """Whether it ended otherwise than with code 0, as far as is known."""
        return bool(self.exit_signal) or bool(self.exit_code)

    @property
    def status(self) -> str:
        """`code 1`, `SIGSEGV`, `SIGKILL from kill[7]`, `ended` where it is not known how, `living`.

        Of who is only known as somebody's parent `unknown`, until it is known to be gone.
        """
        if self.is_oom_killed:
            return f"{self.exit_signal or 'killed'} by the kernel, out of memory"
        if self.exit_signal:
            return f"{self.exit_signal} from {self.killer}" if self.killer else self.exit_signal
        if self.exit_code is not None:
            return f"code {self.exit_code}"
        if self.until_usec is not None:
            return "ended"
        return "living" if self.is_seen else "unknown"


@dataclass(slots=True, eq=False)
class _Boot:
    """What is known of a machine while it runs: how far its wall clock is ahead of the kernel's, and who lives."""

    offset_usec: int | None = None
    heard_usec: int = 0
    slept_usec: int = 0
    by_pid: dict[int, Life] = field(default_factory=dict)


_NO_BOOT = _Boot()


class Lives:
    """Takes entries in their order and keeps those that live; `on_end` gets each that has ended.

    `forgotten` counts those that were taken to have ended because there were too many.
    """

    def __init__(self, on_end: Callable[[Life], None] = lambda _life: None) -> None:
        self.living: dict[Key, Life] = {}
        self.forgotten = 0
        self._on_end = on_end
        self._ended: dict[Key, Life] = {}
        self._boots: dict[str, _Boot] = {}
        self._latest: dict[str, str] = {}  # each host's boot
        self._names: dict[tuple[str, str], str] = {}  # by boot and UID

    def take(self, entry: Entry) -> Life | None:
        """Learn from an entry; gives the process that it is about, None where it is about none."""
        event = text_of(entry, "EVENT")
        pid = number(entry, "PID")
        if event not in EVENTS or pid is None:
            return None
        boot, when = self._time(entry)
        process_id = text_of(entry, "PROCESS_ID")
        is_thread = "PROCWATCH_TID" in entry
        if event == "fork" and not process_id and not is_thread:
            self._make_room(boot, pid, when)
        life = self._find(boot, pid, process_id, when)
        if life.until_usec is not None:  # it comes too late, or once more
            return life
        if not life.is_seen:
            life.is_seen = True
            self._learn_start(life, entry, when)
        if life.parent is None and (parent := self._parent(entry, life, when)) is not None:
            _adopt(life, parent)
        elif life.parent is not None and life.parent.key[1].isdigit():
            self._learn_id(life.parent, text_of(entry, "PARENT_PROCESS_ID"))
        if not is_thread:
            self._learn_user(life, entry)
            _learn(life, entry, event, when)
            _begin_before(life)
        if event == "exit" and not is_thread:
            self._end(life, when, is_known=True)
        elif self.living.get(life.key) is not life:
            self._end(life, when, is_known=False)
        self._forget(when)
        return life

    def _time(self, entry: Entry) -> tuple[str, int]:
        """The boot, and the kernel's time of the event in µs since 1970; without one, when the entry was written."""
        name = full_text_of(entry, "_BOOT_ID")
        boot = self._boots.get(name)
        if boot is None:
            boot = self._begin(full_text_of(entry, "_MACHINE_ID") or full_text_of(entry, "_HOSTNAME"), name)
        exact = kernel_usec(entry)
        if exact is not None:
            boot.heard_usec = exact
            return name, exact
        written = realtime_usec(entry) or 0
        monotonic = number(entry, "MONOTONIC_USEC")
        if monotonic is None or monotonic >= TIME_LIMIT_USEC:
            boot.heard_usec = written
        elif not written:
            boot.heard_usec = monotonic + (boot.offset_usec or 0)
        else:
            ahead = written - monotonic
            # It was written later than it happened, the less the truer; and clocks are set.
            if boot.offset_usec is None or not 0 <= ahead - boot.offset_usec < CLOCK_SET_USEC:
                boot.offset_usec = ahead
            boot.heard_usec = monotonic + boot.offset_usec
        return name, boot.heard_usec

    def _begin(self, host: str, name: str) -> _Boot:
        """Note a boot that is new: whatever lived on that host before has ended.

        Once: two machines may have one name, and their entries come in turns.
        """
        before = self._latest.pop(host, None)
        self._latest[host] = name
        if before is not None:
            self._end_all(before)
        if len(self._boots) >= BOOTS_LIMIT:
            oldest = next(iter(self._boots))
            self._end_all(oldest)
            del self._boots[oldest]
        if len(self._latest) > BOOTS_LIMIT:
            del self._latest[next(iter(self._latest))]
        boot = self._boots[name] = _Boot()
        return boot

    def _end_all(self, name: str) -> None:
        boot = self._boots.get(name, _NO_BOOT)
        for life in list(boot.by_pid.values()):
            self._end(life, boot.heard_usec, is_known=False)

    def _learn_start(self, life: Life, entry: Entry, when: int) -> None:
        """When it was forked, by its PROCESS_ID and the clock of an entry."""
        start, monotonic = _start_of(life.key[1]), number(entry, "MONOTONIC_USEC")
        if start is None or monotonic is None or start[0] * TICK_USEC > TIME_LIMIT_USEC:
            return
        boot = self._boots[life.key[0]]
        begun_usec = start[0] * TICK_USEC
        boot.slept_usec = max(boot.slept_usec, begun_usec - monotonic)
        ago = monotonic + boot.slept_usec - begun_usec
        if ago <= when:
            life.since_usec, life.is_since_known = min(life.since_usec, when - ago), True

    def _learn_user(self, life: Life, entry: Entry) -> None:
        """Whose it is: the name, which not all entries of a user have, else the UID."""
        user = text_of(entry, "USER")
        if user and user == life.user:
            return
        uid = text_of(entry, "UID")
        who = (life.key[0], uid)
        if user and uid and (who in self._names or len(self._names) < NAMES_LIMIT):
            self._names[who] = user
        life.user = user or self._names.get(who) or ("root" if uid == "0" else uid) or life.user

    def _learn_id(self, named: Life, process_id: str) -> None:
        """Have what was only named be found by its PROCESS_ID."""
        is_it = _pid_of(process_id) == named.pid and _may_be(named, process_id)
        key = (named.key[0], process_id)
        if is_it and self.living.get(named.key) is named and key not in self.living:
            del self.living[named.key]
            named.key = key
            self.living[key] = named

    def _make_room(self, name: str, pid: int, when: int) -> None:
        """What is forked now, and has no PROCESS_ID, is not who had its PID before."""
        known = self._boots[name].by_pid.get(pid)
        if known is not None and known.is_seen:
            self._end(known, when, is_known=False)

    def _find(self, name: str, pid: int, process_id: str, when: int) -> Life:
        """The life that an entry is about: a living one, now the last that was heard of; else one that has ended.

        One that is neither has ended, too, as a later one has its PID: who calls ends it, knowing more of it by then.
        """
        by_pid = self._boots[name].by_pid
        known = by_pid.get(pid)
        key = (name, process_id or (known.key[1] if known else str(pid)))
        if known is not None and (known.key == key or _may_be(known, process_id)):
            del self.living[known.key]
            known.key = key
            self.living[key] = known
            return known
        if (
            other := self.living.get(key)
        ) is not None:  # with another PID, as no entry of the daemon's has it
            return other
        is_late = known is not None and is_before(process_id, known.key[1])
        ended = self._ended.get(key) if process_id else None
        if ended is not None and (ended.is_end_known or is_late):
            return ended
        life = Life(key, pid, since_usec=when)
        if not is_late:
            if known is not None:
                self._end(known, when, is_known=False)
            self.living[key] = by_pid[pid] = life
        return life

    def _parent(self, entry: Entry, life: Life, when: int) -> Life | None:
        """Whose child it is, with as many ancestors as the entry names."""
        names = named_ancestors(entry)
        process_id = text_of(entry, "PARENT_PROCESS_ID")
        ppid = number(entry, "PPID") or _pid_of(process_id)
        if not names and not ppid:
            return None
        (comm, pid), *others = names or [(text_of(entry, "PARENT_COMM"), ppid or 0)]
        parent = self._ancestor(life, pid, process_id, comm, when)
        exe, command = text_of(entry, "PARENT_EXE"), text_of(entry, "PARENT_CMDLINE")
        if not parent.images and (exe or command):
            parent.images.append(Image(when, exe, command))
        child = parent
        for comm, pid in others:
            if child.parent is not None:
                break
            above = self._ancestor(life, pid, "", comm, when)
            _adopt(child, above)
            child = above
        return parent

    def _ancestor(self, of: Life, pid: int, process_id: str, comm: str, when: int) -> Life:
        """Who is named among those that `of` descends from."""
        name = of.key[0]
        start = _start_of(of.key[1])
        begun_by = None if start is None else start[0]
        if process_id:
            life = self.living.get((name, process_id)) or self._ended.get((name, process_id))
        else:
            life = self._boots[name].by_pid.get(pid)
            if life is not None and not _began_by(life.key[1], begun_by):
                return self._of_before(name, pid, comm, when)
        if pid == of.pid and (life is None or life is of):
            return self._of_before(name, pid, comm, when)
        if life is None:
            life = self._find(name, pid, process_id, when)
            if life.until_usec is None and self.living.get(life.key) is not life:
                self._end(life, when, is_known=False)
        life.comm = life.comm or comm
        if begun_by is not None and (life.begun_by is None or begun_by < life.begun_by):
            life.begun_by = begun_by
        return life

    def _of_before(self, name: str, pid: int, comm: str, when: int) -> Life:
        """Who had a PID that is a later one's now, and is known by nothing but a name."""
        life = self._ended.get((name, str(pid)))
        if life is None or life.comm != comm:
            life = Life((name, str(pid)), pid, comm=comm, since_usec=when)
            self._end(life, when, is_known=False)
        return life

    def _end(self, life: Life, when: int, *, is_known: bool) -> None:
        if self.living.get(life.key) is life:
            del self.living[life.key]
        by_pid = self._boots[life.key[0]].by_pid
        if by_pid.get(life.pid) is life:
            del by_pid[life.pid]
        life.until_usec = max(life.since_usec, when)
        life.is_end_known = is_known
        self._ended.pop(life.key, None)
        self._ended[life.key] = life
        if len(self._ended) > ENDED_LIMIT:
            del self._ended[next(iter(self._ended))]
        self._on_end(life)

    def _forget(self, when: int) -> None:
        while len(self.living) > LIVING_LIMIT:
            self.forgotten += 1
            self._end(next(iter(self.living.values())), when, is_known=False)


def _start_of(process_id: str) -> tuple[int, int] | None:
    """When a process began, in clock ticks since boot, and as which of those that share this and the PID."""
    found = _PROCESS_ID.fullmatch(process_id)
    return None if found is None else (int(found[2]), int(found[3] or 1))


def _pid_of(process_id: str) -> int | None:
    found = _PROCESS_ID.fullmatch(process_id)
    return None if found is None else int(found[1])


def is_before(process_id: str, other: str) -> bool:
    """Whether one life of a PID is known to be before another."""
    ours, its = _start_of(process_id), _start_of(other)
    return ours is not None and its is not None and ours < its


def _began_by(process_id: str, ticks: int | None) -> bool:
    """Whether it may have begun by then."""
    start = _start_of(process_id)
    return start is None or ticks is None or start[0] <= ticks


def _may_be(named: Life, process_id: str) -> bool:
    """Whether what was only a name among somebody's ancestors may be the process with this id."""
    is_only_named = not named.is_seen and named.key[1] == str(named.pid)
    return is_only_named and _began_by(process_id, named.begun_by)


def named_ancestors(entry: Entry) -> list[tuple[str, int]]:
    """The names and PIDs of the ancestors, the nearest first."""
    words = text_of(entry, "ANCESTORS").split(" ", ANCESTOR_LIMIT)[:ANCESTOR_LIMIT]
    return [(found[1], int(found[2])) for word in words if (found := _ANCESTOR.fullmatch(word))]


def _adopt(child: Life, parent: Life) -> None:
    """Make it the parent, but where it is a descendant itself, as nobody's entries can say truly, or the line long."""
    above: Life | None = parent
    for _ in range(LINE_LIMIT):
        if above is child:
            return
        if above is None:
            child.parent = parent
            return
        above = above.parent


def _begin_before(life: Life) -> None:
    """Have those that it descends from begin no later than it did, where all that is known is when they were named."""
    above = life.parent
    while above is not None and not above.is_since_known and above.since_usec > life.since_usec:
        above.since_usec = life.since_usec
        above = above.parent


def _learn(life: Life, entry: Entry, event: str, when: int) -> None:
    """What an entry says of the process itself."""
    # After an exec that could not be read it is not known any more.
    life.comm = text_of(entry, "COMM") or ("" if event == "exec" else life.comm)
    own = text_of(entry, "USER_UNIT")
    life.unit = (f"{own} ({life.user or '?'})" if own else text_of(entry, "UNIT")) or life.unit
    life.session = text_of(entry, "SESSION") or life.session
    life.container = text_of(entry, "CONTAINER_ID") or life.container
    life.tags = text_of(entry, "TAGS") or life.tags
    life.host = life.host or full_text_of(entry, "_HOSTNAME")
    exe, command = text_of(entry, "EXE"), text_of(entry, "CMDLINE")
    if event == "exec" or (not life.images and (exe or command)):
        life.images.append(Image(when, exe, command))
        del life.images[:-IMAGES_LIMIT]
    if event == "fork":
        life.since_usec, life.is_since_known = when, True
    elif event == "exit":
        _learn_end(life, entry, when)


def _learn_end(life: Life, entry: Entry, when: int) -> None:
    life.exit_code = number(entry, "EXIT_CODE")
    life.exit_signal = text_of(entry, "EXIT_SIGNAL")
    life.is_oom_killed = "PROCWATCH_OOM_KILLED" in entry
    life.killer = _killer(entry)
    life.cpu_usec = number(entry, "CPU_USEC")
    life.memory_peak = number(entry, "MEMORY_PEAK")
    life.duration_usec = number(entry, "DURATION_USEC")
    if life.duration_usec is not None:
        life.since_usec, life.is_since_known = max(0, when - life.duration_usec), True


def _killer(entry: Entry) -> str:
    pid = text_of(entry, "KILLER_PID")
    return f"{text_of(entry, 'KILLER_COMM') or '?'}[{pid}]" if pid else ""
