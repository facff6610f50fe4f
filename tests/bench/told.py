# SPDX-License-Identifier: MIT
"""What procwatchd, forkstat and extrace say of a process, read from their output.

Facts:
- forkstat prints wait statuses (768 is exit code 3), and lines on threads that look like those on processes.
- extrace tells of processes that exec'd. Whose child one is shows by the indentation. It tells of lost events
  on standard error, once for each time it notices. It says nothing of core dumps.
- Where PIDs are few and others busy, a PID can have been another's: lines on programs that are not ours are left out.
"""

from __future__ import annotations

import json
import os
import re
import signal
from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.measured import Measured


@dataclass(frozen=True, slots=True)
class End:
    """The end of a process as a program tells it; None where it does not say.

    `status` is as `status_text` has it. `arguments` is the command line without the program.
    """

    status: str
    arguments: str | None = None
    has_core: bool | None = None
    seconds: float | None = None
    cpu_seconds: float | None = None
    memory_mib: float | None = None


def status_text(status: int) -> str:
    """A wait status as `exit 3` or `SIGKILL`."""
    code = os.waitstatus_to_exitcode(status)
    return f"exit {code}" if code >= 0 else signal.Signals(-code).name


class Told:
    """What a program said, by PID: lists in its order, empty or None where it says nothing of the kind."""

    def execs(self, pid: int) -> list[str | None]:
        """The arguments of each exec, None where they are missing."""
        raise NotImplementedError

    def ends(self, *pids: int) -> list[End]:
        """Every end of a process that is told under one of these ids."""
        raise NotImplementedError

    def parent(self, _pid: int) -> int | None:
        """The parent told when the process came."""
        return None

    def parent_at_end(self, _pid: int) -> int | None:
        """The parent told when it ended."""
        return None

    def uid_changes(self, *_pids: int) -> list[str]:
        """Each change of a user id, as `0→65534`."""
        return []

    def session(self, _pid: int) -> int | None:
        """The session it came into."""
        return None

    def tracing(self, _pid: int) -> list[str]:
        """Each attach to it, as `by PID`, and each `detach`."""
        return []

    def names(self, _pid: int) -> list[str]:
        """Each change of its name, as `life→renamed`."""
        return []

    def is_said_blind(self) -> bool:
        """Whether it says that it was not told anything for a while."""
        return False

    def lost(self) -> tuple[int | None, int]:
        """How many events were lost on their way to it, None for a number it does not say; and how often it says so."""
        raise NotImplementedError

    def of_children(self, _parents: Collection[int]) -> int | None:
        """How many forks by these processes and ends of their children it tells; None where that cannot be seen."""
        return None


class ToldByProcwatchd(Told):
    """JSON lines; the ends of threads are not among them."""

    def __init__(self, program: Measured, life: str) -> None:
        self._life = life
        self._entries = [json.loads(line) for line in program.output.read_bytes().splitlines()]

    def _of(self, event: str, *pids: int) -> list[dict[str, Any]]:
        texts = [str(pid) for pid in pids]
        return [
            {name.removeprefix("PROCWATCH_"): value for name, value in entry.items()}
            for entry in self._entries
            if entry["PROCWATCH_EVENT"] == event and (not pids or entry.get("PROCWATCH_PID") in texts)
        ]

    def _arguments(self, entry: dict[str, Any]) -> str | None:
        if "CMDLINE" not in entry:
            return None
        return str(entry["CMDLINE"]).removeprefix(self._life).removeprefix(" ")

    def execs(self, pid: int) -> list[str | None]:
        return [self._arguments(entry) for entry in self._of("exec", pid)]

    def ends(self, *pids: int) -> list[End]:
        return [
            End(
                entry.get("EXIT_SIGNAL") or f"exit {entry.get('EXIT_CODE', 'unknown')}",
                self._arguments(entry),
                # Left out where there is none; what is not known is left out as well, and so is the status.
                "CORE_DUMPED" in entry if "EXIT_SIGNAL" in entry else None,
                _scaled(entry.get("DURATION_USEC"), 1e6),
                _scaled(entry.get("CPU_USEC"), 1e6),
                _scaled(entry.get("MEMORY_PEAK"), 2**20),
            )
            for entry in self._of("exit", *pids)
            if "TID" not in entry
        ]

    def parent(self, pid: int) -> int | None:
        told = {entry.get("PPID") for event in ("fork", "exec") for entry in self._of(event, pid)}
        # Where they differ, one is wrong.
        return int(told.pop() or 0) if len(told) == 1 else None

    def parent_at_end(self, pid: int) -> int | None:
        return next((int(entry.get("PPID", 0)) for entry in self._of("exit", pid)), None)

    def uid_changes(self, *pids: int) -> list[str]:
        return [f"{entry.get('OLD_UID')}→{entry.get('UID')}" for entry in self._of("uid", *pids)]

    def session(self, pid: int) -> int | None:
        return next((int(entry.get("SID", 0)) for entry in self._of("sid", pid)), None)

    def tracing(self, pid: int) -> list[str]:
        tracers = [entry.get("TRACER_PID") for entry in self._of("ptrace", pid)]
        return [f"by {tracer}" if tracer else "detach" for tracer in tracers]

    def names(self, pid: int) -> list[str]:
        return [f"{entry.get('OLD_COMM')}→{entry.get('COMM')}" for entry in self._of("comm", pid)]

    def is_said_blind(self) -> bool:
        return bool(self._of("blind"))

    def lost(self) -> tuple[int | None, int]:
        where = ("kernel", "queue")
        counts = [int(entry["COUNT"]) for entry in self._of("loss") if entry.get("LOST_WHERE") in where]
        return sum(counts), len(counts)

    def of_children(self, parents: Collection[int]) -> int:
        texts = {str(parent) for parent in parents}
        return sum(entry.get("PPID") in texts for event in ("fork", "exit") for entry in self._of(event))


class ToldByForkstat(Told):
    """Lines `TIME EVENT PID [UID EUID TTY] [INFO] [DURATION] COMMAND`, where a fork is two, of parent and child."""

    _END = re.compile(r"(\d+) +(\d+\.\d+)s $")

    def __init__(self, program: Measured, life: str) -> None:
        self._life = life
        self._lines: dict[tuple[str, int], list[tuple[str, str | None]]] = defaultdict(list)
        self._parents: dict[int, int] = {}
        self._overruns = 0
        ours: set[int] = set()
        before = 0
        for line in _text(program.output):
            words = line.split(None, 3)
            self._overruns += " recv ----- nobufs " in line
            if len(words) < 4 or not words[2].isdigit():
                continue
            event, pid = words[1], int(words[2])
            columns, is_ours, arguments = words[3].partition(life)
            info = columns.split()
            if is_ours:
                ours.add(pid)
            elif not info or info[-1] not in ("<unknown>", "attach", "detach"):
                ours.discard(pid)
            if event == "fork" and "child" in info:
                self._parents[pid] = before
            before = pid
            if pid in ours:
                self._lines[event, pid].append((columns, arguments.strip() if is_ours else None))
            if event == "exit":
                ours.discard(pid)

    def execs(self, pid: int) -> list[str | None]:
        return [arguments for _, arguments in self._lines["exec", pid]]

    def ends(self, *pids: int) -> list[End]:
        ends = []
        for pid in pids:
            for columns, arguments in self._lines["exit", pid]:
                if match := self._END.search(columns.removesuffix("<unknown>")):
                    status = int(match[1])
                    ends.append(End(status_text(status), arguments, os.WCOREDUMP(status), float(match[2])))
        return ends

    def parent(self, pid: int) -> int | None:
        return self._parents.get(pid) if self.execs(pid) else None

    def uid_changes(self, *pids: int) -> list[str]:
        return [f"→{columns.split()[-1]}" for pid in pids for columns, _ in self._lines["uid", pid]]

    def session(self, pid: int) -> int | None:
        return next((int(columns.split()[-1]) for columns, _ in self._lines["sid", pid]), None)

    def tracing(self, pid: int) -> list[str]:
        return [columns.split()[-1] for columns, _ in self._lines["ptrce", pid]]

    def names(self, pid: int) -> list[str]:
        lines = (arguments or "" for _, arguments in self._lines["comm", pid])
        return [re.sub(f" +-> {re.escape(self._life)} ", "→", line) for line in lines]

    def lost(self) -> tuple[int | None, int]:
        return None, self._overruns


class ToldByExtrace(Told):
    """Indented lines `PID+ COMMAND` of execs and `PID- NAME exited …` of ends, with long names cut."""

    _LINE = re.compile(r"( *)(\d+)([+-]) (.*)")
    _END = re.compile(r"(.+) exited (?:status=(\d+)|signal=(\w+)) time=([\d.]+)s$")

    def __init__(self, program: Measured, life: str) -> None:
        self._execs: dict[int, list[str | None]] = defaultdict(list)
        self._ends: dict[int, list[End]] = defaultdict(list)
        self._parents: dict[tuple[int, str], int | None] = {}
        last_by_depth: dict[int, int] = {}
        for line in _text(program.output):
            if not (match := self._LINE.fullmatch(line)):
                continue
            depth, pid, sign, rest = len(match[1]) // 2, int(match[2]), match[3], match[4]
            if sign == "+" and rest.startswith(life):
                last_by_depth[depth] = pid
                self._execs[pid].append(rest.removeprefix(life).removeprefix(" "))
            elif (end := self._END.fullmatch(rest)) and life.startswith(end[1]):
                self._ends[pid].append(End(end[3] or f"exit {end[2]}", seconds=float(end[4])))
            else:
                continue
            self._parents[pid, sign] = last_by_depth.get(depth - 1)
        self._notices = sum("out of order message" in line for line in _text(program.errors))

    def execs(self, pid: int) -> list[str | None]:
        return self._execs[pid]

    def ends(self, *pids: int) -> list[End]:
        return [end for pid in pids for end in self._ends[pid]]

    def parent(self, pid: int) -> int | None:
        return self._parents.get((pid, "+"))

    def parent_at_end(self, pid: int) -> int | None:
        return self._parents.get((pid, "-"))

    def lost(self) -> tuple[int | None, int]:
        return None, self._notices


TOLD: dict[str, Callable[[Measured, str], Told]] = {
    "procwatchd": ToldByProcwatchd,
    "forkstat": ToldByForkstat,
    "extrace": ToldByExtrace,
}


def _text(path: Path) -> list[str]:
    return path.read_bytes().decode("utf-8", "surrogateescape").split("\n")


def _scaled(value: str | None, unit: float) -> float | None:
    return None if value is None else int(value) / unit
