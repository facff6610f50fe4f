# SPDX-License-Identifier: MIT
"""Processes whose truth is known, and what procwatchd, forkstat and extrace say of them while all three listen.

Each situation is made once, by a C program (helpers/life.c) whose lives last long enough to be looked at: whether
a program is in time for short ones is another benchmark's question. The truth is what was asked for, held against
what waitpid gave. What a program says is right only if it is all that the situation's name asks for, no more.

Facts:
- forkstat prints wait statuses (768 is exit code 3), and lines on threads that look like those on processes. It is run
  with -E -x, so that it says all it can, and -r. With -c it would print names in place of command lines.
- extrace tells of processes that exec'd. Whose child one is shows by the indentation. It tells of lost events
  on standard error, once for each time it notices.
- /proc/net/netlink has the drops of each socket, and its inode as the last column [net/netlink/af_netlink.c].
- Where PIDs are few and others busy, a PID can have been another's: lines on programs that are not ours are left out.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench import measured
from tests.bench.load import BenchError, Load
from tests.bench.measured import PATIENCE_SECONDS, Measured

HELPERS = Path(__file__).with_name("helpers")
NOBODY = 65534
# As many lives as get one PID, one at once after the other.
LIVES_OF_A_PID = 8
SLEPT_SECONDS = 0.3
BURNT_SECONDS = 0.2
TOUCHED_MIB = 64
# Twice what a buffer of 64 MiB holds.
OVERRUN_EVENTS = 320_000
OVERRUN_SLICE_SECONDS = 0.5
# More than two heartbeats of procwatchd. forkstat and extrace never ask: with them it takes no longer to see it.
BLIND_SECONDS = 12.0
BLIND_PEERS_SECONDS = 2.0
_CANNOT_BREAK = 77
_LOOK_SECONDS = 0.05
_TAIL_BYTES = 1_000_000

# Everything that can be told, of the processes started here.
CONFIGURATION = f"""
capture: {{events: all}}
log: {{fields: all}}
rules:
  - name: others
    match: {{not: {{ancestor.pid: {os.getpid()}}}}}
    action: drop
"""

# Each pair of neighbours looks the same to those who print arguments as they are, or quote them without care.
CONFUSABLE: tuple[tuple[bytes, ...], ...] = (
    (b"a b",),
    (b"a", b"b"),
    (b"'a b'",),
    (b"a\nb",),
    (rb"a\nb",),
    (rb"$'a\nb'",),
    (b"it's",),
    (rb"it\'s",),
    (b"",),
    (),
    (b"\xff",),
    (b"\xfe",),
    (rb"\xff",),
    (rb"$'\xff'",),
)


@dataclass(frozen=True, slots=True)
class Cell:
    """What a program said, in short, and whether that is right."""

    said: str
    right: bool


@dataclass(frozen=True, slots=True)
class Situation:
    """What was made, and by program what it said: procwatchd, forkstat, extrace."""

    name: str
    cells: dict[str, Cell]


@dataclass(frozen=True, slots=True)
class End:
    """The end of a process as a program tells it; None where it does not say.

    `status` is as `status_text` has it. `arguments` is the command line without the program.
    """

    status: str
    arguments: str | None = None
    has_core: bool = False
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
        """How many events the kernel could not queue for it, and how often it says that there were any."""
        raise NotImplementedError


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
                "CORE_DUMPED" in entry,
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
        counts = [int(entry["COUNT"]) for entry in self._of("loss") if entry.get("LOST_WHERE") == "kernel"]
        return sum(counts), len(counts)


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


@dataclass(frozen=True, slots=True)
class Life:
    """A process that was, and what it printed: the ids by name. `status` is what waitpid gave."""

    pid: int
    status: int
    seconds: float
    ids: dict[str, list[int]] = field(default_factory=dict)

    def id(self, name: str) -> int:
        """The only id of this name."""
        (only,) = self.ids[name]
        return only

    @property
    def all_ids(self) -> list[int]:
        """The PID, and those of all threads but the leader."""
        return [self.pid, *self.ids.get("tid", [])]


class Lives:
    """The compiled helpers, in a directory that is the caller's."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.program = _compile("life", directory)
        self._blind = _compile("blind", directory)

    def start(self, *arguments: str | bytes) -> subprocess.Popen[bytes]:
        """Start a life; it is to be ended by `end`."""
        command = [self.program, *arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=self._directory, stdin=pipe, stdout=pipe, bufsize=0)

    def end(self, process: subprocess.Popen[bytes], wanted: str) -> Life:
        """End a life's standard input and wait for its end, which is to be the wanted one."""
        started = time.monotonic()
        with process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.close()
            output = process.stdout.read().decode()
            # `wait` would not say whether there was a core dump.
            _, status = os.waitpid(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if status_text(status) != wanted:
            raise BenchError(f"{process.args!r} ended with {status_text(status)} instead of {wanted}")
        ids = defaultdict(list)
        for line in output.splitlines():
            name, _, number = line.partition(" ")
            ids[name].append(int(number))
        return Life(process.pid, status, time.monotonic() - started, ids)

    def run(self, *arguments: str | bytes, wanted: str = "exit 0") -> Life:
        """A life from its beginning to the wanted end."""
        return self.end(self.start(*arguments), wanted)

    def blind(self) -> int | None:
        """Have an unprivileged process blind all listeners; gives what `restore` needs, None where it cannot."""
        done = subprocess.run([self._blind, "break"], capture_output=True, check=False)
        if done.returncode == _CANNOT_BREAK:
            return None
        if done.returncode:
            raise BenchError(f"the listeners cannot be blinded: {done.stderr.decode().strip()}")
        return int(done.stdout)

    def restore(self, count: int) -> None:
        """Have all listeners see again."""
        if subprocess.run([self._blind, "restore", str(count)], check=False).returncode:
            raise BenchError("the kernel does not tell anything of processes any more")


def _compile(name: str, directory: Path) -> str:
    program, source = str(directory / name), HELPERS / f"{name}.c"
    command = ["cc", "-O2", "-Wall", "-Wextra", "-pthread", "-o", program, str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"{source.name} does not compile: {done.stderr}")
    return program


@dataclass(frozen=True, slots=True)
class Question:
    """A situation that was made, and how to judge what a program says of it."""

    name: str
    judge: Callable[[Told], Cell]


def measure(load: Load, directory: Path) -> list[Situation]:
    """Make all situations; the helpers are compiled into this directory."""
    lives = Lives(directory)
    return [*_of_lives(lives), _of_overrun(load, lives), *_of_blindness(lives)]


def _of_lives(lives: Lives) -> list[Situation]:
    with contextlib.ExitStack() as stack:
        early = lives.start("await", "9")
        stack.callback(early.wait)
        stack.callback(early.kill)
        programs = _listen(stack, lives, *_START)
        questions = [question for make in _MAKERS for question in make(lives)]
        life = lives.end(early, "exit 9")
        questions.append(
            _whole_end("ran before all listened: command line, exit 9", life.pid, "await 9", "exit 9")
        )
        _wait_all_seeing(lives, programs)
        told = _stop(programs, lives)
    return [
        Situation(question.name, {name: question.judge(one) for name, one in told.items()})
        for question in questions
    ]


def _make_arguments(lives: Lives) -> Iterator[Question]:
    pids = [lives.run("exit", "0", *arguments).pid for arguments in CONFUSABLE]

    def judge(told: Told) -> Cell:
        texts = [next(iter(told.execs(pid)), None) for pid in pids]
        alone = sum(texts.count(text) == 1 for text in texts if text is not None)
        missing = texts.count(None)
        said = f"{alone} of {len(pids)} unmistakable" + (f", {missing} missing" if missing else "")
        return Cell(said, alone == len(pids))

    yield Question("arguments with blanks, quotes, newline, bytes", judge)


def _make_ends(lives: Lives) -> Iterator[Question]:
    life = lives.run("leader-first", "3", wanted="exit 3")
    yield _only_end("leader ends first, then exit_group(3): one end", life.all_ids, "exit 3")
    life = lives.run("threads", "7", wanted="exit 7")
    yield _only_end("exit_group(7) while threads run: one end", life.all_ids, "exit 7")
    life = lives.run("exec-thread", "5", wanted="exit 5")
    yield _only_end("exec by a thread, then exit 5: one end", life.all_ids, "exit 5")
    child = lives.run("auto-reaped", "4").id("pid")
    yield _only_end("child that nobody waits for: exit 4", [child], "exit 4")
    life = lives.run("signal", str(int(signal.SIGKILL)), wanted="SIGKILL")
    yield _only_end("killed by SIGKILL", [life.pid], "SIGKILL")
    yield from _make_crash(lives)
    child = lives.run("forked", "5").id("pid")
    yield _whole_end("never exec'd: command line, exit 5", child, "forked 5", "exit 5")


def _make_crash(lives: Lives) -> Iterator[Question]:
    life = lives.run("signal", str(int(signal.SIGSEGV)), wanted="SIGSEGV")
    yield _only_end("crashed by SIGSEGV", [life.pid], "SIGSEGV")
    dumped = "core" if os.WCOREDUMP(life.status) else "no core"

    def cores(told: Told) -> list[str]:
        return ["core" if end.has_core else "no core" for end in told.ends(life.pid)]

    yield _exactly(f"  whether there is a core dump: {dumped}", cores, dumped)


def _make_reuse(lives: Lives) -> Iterator[Question]:
    pid = lives.run("reuse", str(LIVES_OF_A_PID)).id("pid")
    wanted = [f"exit {n}" for n in range(1, LIVES_OF_A_PID + 1)]

    def judge(told: Told) -> Cell:
        execs = told.execs(pid)
        # Before the first of these lives the PID was that of a child which ended with 0.
        ends = [end for end in told.ends(pid) if end.status != "exit 0"]
        right = sum(
            execed == one == end.status and end.arguments in (None, one)
            for execed, end, one in zip(execs, ends, wanted, strict=False)
        )
        return Cell(f"{right} of {len(wanted)} lives", right == len(wanted) == len(execs) == len(ends))

    yield Question("PID reused at once: each command line and code", judge)


def _make_parents(lives: Lives) -> Iterator[Question]:
    life = lives.run("thread-child")
    child, thread = life.id("pid"), life.id("tid")
    names = {life.pid: "its process", thread: "the thread"}
    yield _number("child of a thread: parent", lambda told: told.parent(child), life.pid, names)
    nest = lives.run("nest", "clone-parent")
    sibling, creator = nest.id("pid"), nest.id("creator")
    names = {nest.pid: "the creator's parent", creator: "the creator"}
    yield _number("CLONE_PARENT: parent", lambda told: told.parent(sibling), nest.pid, names)
    adopter = lives.run("adopt", "6")
    orphan, parent = adopter.id("pid"), adopter.id("parent")
    names = {parent: "born to", adopter.pid: "adopted by"}
    yield _number(
        "adopted orphan ends: parent born to", lambda told: told.parent_at_end(orphan), parent, names
    )


def _make_changes(lives: Lives) -> Iterator[Question]:
    changed = lives.run("setuid", str(NOBODY)).all_ids
    yield _exactly(
        "setuid among threads: once, before and after", lambda told: told.uid_changes(*changed), f"0→{NOBODY}"
    )
    unchanged = lives.run("saved-uid", "1").pid
    yield _exactly("setuid that leaves both ids: nothing", lambda told: told.uid_changes(unchanged))
    leader = lives.run("setsid").pid
    yield _number("setsid: new session", lambda told: told.session(leader), leader, {leader: "its own"})
    tracer = lives.run("trace")
    traced = tracer.id("pid")
    yield _exactly(
        "ptrace attach and detach: by whom",
        lambda told: ["by the tracer" if by == f"by {tracer.pid}" else by for by in told.tracing(traced)],
        *("by the tracer", "detach"),
    )
    renamed = lives.run("rename", "renamed").pid
    yield _exactly("PR_SET_NAME: old and new name", lambda told: told.names(renamed), "life→renamed")


def _make_figures(lives: Lives) -> Iterator[Question]:
    slept = lives.run("sleep", str(SLEPT_SECONDS))

    def judge_duration(told: Told) -> Cell:
        seconds = [end.seconds for end in told.ends(slept.pid) if end.seconds is not None]
        said = _listed([f"{one:.2f} s" for one in seconds])
        return Cell(said, [_is_near(one, slept.seconds, 0.2) for one in seconds] == [True])

    yield Question(f"duration, {slept.seconds:.2f} s", judge_duration)
    burner = lives.run("burn", str(BURNT_SECONDS), str(TOUCHED_MIB))

    def judge_use(told: Told) -> Cell:
        uses = [
            (end.cpu_seconds, end.memory_mib)
            for end in told.ends(burner.pid)
            if end.cpu_seconds is not None and end.memory_mib is not None
        ]
        near = [_is_near(cpu, BURNT_SECONDS, 0.25) and _is_near(mib, TOUCHED_MIB, 0.25) for cpu, mib in uses]
        return Cell(_listed([f"{cpu:.2f} s, {mib:.0f} MiB" for cpu, mib in uses]), near == [True])

    yield Question(f"CPU and peak memory, {BURNT_SECONDS} s, {TOUCHED_MIB} MiB", judge_use)


_MAKERS = (_make_arguments, _make_ends, _make_reuse, _make_parents, _make_changes, _make_figures)


def _only_end(name: str, pids: list[int], wanted: str) -> Question:
    """One end is told under all these ids, and it is the wanted one."""
    return _exactly(name, lambda told: [end.status for end in told.ends(*pids)], wanted)


def _whole_end(name: str, pid: int, arguments: str, wanted: str) -> Question:
    """One end is told, with this command line."""

    def ends(told: Told) -> list[str]:
        return [f"{end.arguments or 'who?'}: {end.status}" for end in told.ends(pid)]

    return _exactly(name, ends, f"{arguments}: {wanted}")


def _exactly(name: str, ask: Callable[[Told], list[str]], *wanted: str) -> Question:
    """Just this is told."""
    return Question(name, lambda told: Cell(_listed(ask(told)), ask(told) == list(wanted)))


def _number(name: str, ask: Callable[[Told], int | None], wanted: int, names: dict[int, str]) -> Question:
    """One number is told, the wanted one; `names` says of those that may be what they are."""

    def judge(told: Told) -> Cell:
        number = ask(told)
        return Cell("nothing" if number is None else names.get(number, str(number)), number == wanted)

    return Question(name, judge)


def _listed(items: list[str]) -> str:
    if len(items) > 2:
        return f"{len(items)} times, first {items[0]}"
    return ", ".join(items) or "nothing"


def _is_near(value: float, wanted: float, share: float) -> bool:
    return abs(value - wanted) <= share * wanted


def _of_overrun(load: Load, lives: Lives) -> Situation:
    with contextlib.ExitStack() as stack:
        programs = _listen(stack, lives, *_START)
        for program in programs.values():
            program.process.send_signal(signal.SIGSTOP)
        events = 0
        while events < OVERRUN_EVENTS:
            events += 2 * load.storm(OVERRUN_SLICE_SECONDS).total
        for program in programs.values():
            program.process.send_signal(signal.SIGCONT)
        _wait_all_seeing(lives, programs)
        drops = {name: _drops(program.process.pid) for name, program in programs.items()}
        told = _stop(programs, lives)
    cells = {name: _judge_loss(told[name], drops[name]) for name in told}
    return Situation(f"stopped for {events:,} events: how many were lost", cells)


def _judge_loss(told: Told, drops: int) -> Cell:
    count, notices = told.lost()
    if count is None:
        return Cell(f"{notices} notices, no number" if notices else "nothing", notices == drops == 0)
    return Cell(f"{count:,} of {drops:,}", count == drops)


def _drops(pid: int) -> int:
    """How many events the kernel could not queue on the connector socket of a process.

    Of several it is the one with the most: the others take part of the events, and are no more than a help.
    """
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            inodes.add(os.readlink(entry).removeprefix("socket:[").removesuffix("]"))
    rows = [line.split() for line in Path("/proc/net/netlink").read_text().splitlines()[1:]]
    # sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode
    return max(int(row[8]) for row in rows if int(row[1]) == measured._NETLINK_CONNECTOR and row[9] in inodes)


def _of_blindness(lives: Lives) -> list[Situation]:
    """Blind the peers without procwatchd, which would have them see again, too."""
    alone = _blinded(lives, BLIND_SECONDS, "procwatchd")
    peers = _blinded(lives, BLIND_PEERS_SECONDS, "forkstat", "extrace")
    cells = {**alone, **peers}
    return [Situation("blinded by anybody: says so, sees again", cells)] if cells else []


def _blinded(lives: Lives, seconds: float, *names: str) -> dict[str, Cell]:
    """What these say of it within so long; nothing where the kernel does not let itself be broken."""
    with contextlib.ExitStack() as stack:
        programs = _listen(stack, lives, *names)
        if (count := lives.blind()) is None:
            return {}
        try:
            seeing = _wait_seeing(lives, programs, seconds)
        finally:
            lives.restore(count)
        told = _stop(programs, lives)
    return {name: _judge_blind(told[name], is_seeing=name in seeing) for name in names}


def _wait_seeing(lives: Lives, programs: dict[str, Measured], seconds: float) -> set[str]:
    """Run processes until all programs tell of one of them, or so long; gives who does."""
    mark = f"mark-{time.monotonic_ns()}"
    deadline = time.monotonic() + seconds
    seeing: set[str] = set()
    while time.monotonic() < deadline and len(seeing) < len(programs):
        lives.run("exit", "0", mark)
        time.sleep(_LOOK_SECONDS)
        seeing |= {name for name, program in programs.items() if mark.encode() in _tail(program.output)}
    return seeing


def _tail(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        return file.read()


def _judge_blind(told: Told, *, is_seeing: bool) -> Cell:
    is_said = told.is_said_blind()
    said = f"{'says so' if is_said else 'says nothing'}, {'sees again' if is_seeing else 'stays blind'}"
    return Cell(said, is_said and is_seeing)


def _listen(stack: contextlib.ExitStack, lives: Lives, *names: str) -> dict[str, Measured]:
    """Start these, and wait until they tell of processes; they have ended when the stack is left."""
    programs = {name: stack.enter_context(_START[name]()) for name in names}
    _wait_all_seeing(lives, programs)
    return programs


def _wait_all_seeing(lives: Lives, programs: dict[str, Measured]) -> None:
    """Wait until all have told what was before."""
    if blind := programs.keys() - _wait_seeing(lives, programs, PATIENCE_SECONDS):
        raise BenchError(f"{', '.join(blind)} told of no process within {PATIENCE_SECONDS:.0f} s")


def _stop(programs: dict[str, Measured], lives: Lives) -> dict[str, Told]:
    for program in programs.values():
        program.stop()
    return {name: TOLD[name](program, lives.program) for name, program in programs.items()}


@contextlib.contextmanager
def _procwatchd() -> Iterator[Measured]:
    """The daemon, logging all that it can of the processes started here; READY."""
    with measured._directory() as directory, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(directory / "notify"))
        configuration = directory / "procwatchd.yaml"
        configuration.write_text(CONFIGURATION)
        command = [sys.executable, "-m", "procwatchd", "-c", str(configuration), "--output", "json"]
        environment = {
            **os.environ,
            "RUNTIME_DIRECTORY": str(directory / "run"),
            "NOTIFY_SOCKET": str(directory / "notify"),
        }
        with measured._running("procwatchd", command, directory, signal.SIGTERM, environment) as daemon:
            measured._wait_ready(daemon, notify)
            # Before the daemon has to wait for somebody to read what else it notifies.
            notify.close()
            yield daemon


@contextlib.contextmanager
def _extrace() -> Iterator[Measured]:
    """Extrace with full paths and ends, listening."""
    with (
        measured._directory() as directory,
        measured._running("extrace", ["extrace", "-l", "-t"], directory, signal.SIGTERM) as program,
    ):
        measured._wait_listening(program)
        yield program


_START: dict[str, Callable[[], contextlib.AbstractContextManager[Measured]]] = {
    "procwatchd": _procwatchd,
    "forkstat": lambda: measured.forkstat("-r", "-E", "-x", "-l"),
    "extrace": _extrace,
}
