# SPDX-License-Identifier: MIT
"""Processes whose truth is known, and what procwatchd, forkstat and extrace say of them while all three listen.

Each situation is made once. The truth is what was asked for, held against what waitpid gave. What a program says is
right only if it is all that the situation's name asks for, no more.

forkstat is run with -E -x, so that it says all it can, and -r. With -c it would print names in place of command lines.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.bench import measured
from tests.bench.lives import Lives, restore
from tests.bench.load import BenchError, Load, forks_of_the_machine
from tests.bench.measured import PATIENCE_SECONDS, Measured
from tests.bench.told import TOLD, Told

NOBODY = 65534
# As many lives as get one PID, one at once after the other.
LIVES_OF_A_PID = 8
SLEPT_SECONDS = 0.3
BURNT_SECONDS = 0.2
TOUCHED_MIB = 64
# Twice what a buffer of 64 MiB holds.
OVERRUN_EVENTS = 320_000
OVERRUN_SLICE_SECONDS = 0.5
# The most that others' processes make on average: fork, two of exec, session, user, group, name, exit.
EVENTS_OF_OTHERS = 8
# More than two heartbeats of procwatchd. forkstat and extrace never ask: with them it takes no longer to see it.
BLIND_SECONDS = 12.0
BLIND_PEERS_SECONDS = 2.0
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
    yield from _make_kills(lives)
    child = lives.run("forked", "5").id("pid")
    yield _whole_end("never exec'd: command line, exit 5", child, "forked 5", "exit 5")


def _make_kills(lives: Lives) -> Iterator[Question]:
    killed = lives.run("signal", str(int(signal.SIGKILL)), wanted="SIGKILL")
    yield _only_end("killed by SIGKILL", [killed.pid], "SIGKILL")
    crashed = lives.run("signal", str(int(signal.SIGSEGV)), wanted="SIGSEGV")
    yield _only_end("crashed by SIGSEGV", [crashed.pid], "SIGSEGV")
    if not os.WCOREDUMP(crashed.status):
        return  # it may have one, but this machine makes none

    def cores(told: Told) -> list[str]:
        ends = [end for life in (crashed, killed) for end in told.ends(life.pid) if end.has_core is not None]
        return ["core" if end.has_core else "no core" for end in ends]

    yield _exactly("  whether there is a core dump, of both", cores, "core", "no core")


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


@dataclass(frozen=True, slots=True)
class Overrun:
    """A storm while all were stopped: the events it made, its workers, and what others forked until all was told."""

    events: int
    workers: set[int]
    other_forks: int


def _of_overrun(load: Load, lives: Lives) -> Situation:
    """Stop all three for more than they can hold, and see what they say is missing.

    It proves that a number is neither too low, nor too high by more than others can account for, without the
    kernel's counter of drops, which is where procwatchd has its number from. The storm made two events a fork, FORK and
    EXIT, as its workers count; those that were told are known by the workers' PIDs (ends that were found out
    afterwards are among them, of the few who lived just then). The rest was lost, at least. What others lost on top
    of that is not known; they made at most some events for each of their forks, which the growth of `processes`
    in /proc/stat gives. Of a program that says no number the counter tells whether it had anything to say.
    """
    with contextlib.ExitStack() as stack:
        programs = _listen(stack, lives, *_START)
        overrun = _overrun(load, lives, programs)
        drops = {name: program.drops() for name, program in programs.items()}
        told = _stop(programs, lives)
    cells = {name: _judge_loss(told[name], overrun, drops[name]) for name in told}
    return Situation(f"stopped for {overrun.events:,} events: how many were lost", cells)


def _overrun(load: Load, lives: Lives, programs: dict[str, Measured]) -> Overrun:
    """Storm while these are stopped, and wait until they have told what they have of it."""
    forks_before = forks_of_the_machine()
    for program in programs.values():
        program.process.send_signal(signal.SIGSTOP)
    forks = 0
    workers: set[int] = set()
    while 2 * forks < OVERRUN_EVENTS:
        storm = load.storm(OVERRUN_SLICE_SECONDS)
        forks += storm.total
        workers |= storm.forks.keys()
    for program in programs.values():
        program.process.send_signal(signal.SIGCONT)
    _wait_all_seeing(lives, programs)
    return Overrun(2 * forks, workers, forks_of_the_machine() - forks_before - forks)


def _judge_loss(told: Told, overrun: Overrun, drops: int) -> Cell:
    count, notices = told.lost()
    received = told.of_children(overrun.workers)
    if count is None or received is None:
        return Cell(f"{notices} notices, no number" if notices else "nothing", notices == drops == 0)
    least = overrun.events - received
    most = least + EVENTS_OF_OTHERS * overrun.other_forks
    return Cell(f"{count:,} of {least:,} to {most:,}", least <= count <= most)


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
        if not lives.blind():
            return {}
        try:
            seeing = _wait_seeing(lives, programs, seconds)
        finally:
            restore()
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


_START: dict[str, Callable[[], contextlib.AbstractContextManager[Measured]]] = {
    # All that each can say.
    "procwatchd": lambda: measured.procwatchd(CONFIGURATION),
    "forkstat": lambda: measured.forkstat("-r", "-E", "-x", "-l"),
    "extrace": lambda: measured.extrace("-l", "-t"),
}
