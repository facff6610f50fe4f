# SPDX-License-Identifier: MIT
r"""What strace(1) saw, as processes: who forked whom, what each executed, how each ended.

Facts, of strace 6.1:
- Each line begins with a thread's id. A call during which another thread's line was written stands on two:
  `name(… <unfinished ...>` and `<... name resumed>…`. A child's first line may come before its fork's result.
- When a thread that is no leader executes, the leader's next lines are `+++ superseded by execve in pid THREAD +++`
  and the call's result. The thread's own line ends with `<pid changed to LEADER ...>`, or is an unfinished one.
  For a leader that had ended before, what was begun, or `???(`, can stand before the first of them, on one line.
- With -xx every byte of a string is `\xNN`, -y tells the path of a descriptor, as `3<\x2f…>`.
- `+++ killed by … +++` is left out where signals are not traced, so they are.
- A process's end is told of its leader once all of its threads have ended, with the status that its parent sees.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

FORKS = ("clone", "clone3", "fork", "vfork")
CALLS = ("execve", "execveat", *FORKS)

_LINE = re.compile(r"(\d+) +(?:(.+)\1 +(?=\+\+\+ superseded))?(.*)")
_UNFINISHED = re.compile(r"(.*) <unfinished \.\.\.>")
_CHANGED = re.compile(r"(.*) <pid changed to (\d+) \.\.\.>")
_RESUMED = re.compile(r"<\.\.\. \w+ resumed>(.*)")
_CALL = re.compile(r"(\w+)\((.*)\) += (-?\d+|\?).*")
_EXITED = re.compile(r"\+\+\+ exited with (\d+) \+\+\+")
_SUPERSEDED = re.compile(r"\+\+\+ superseded by execve in pid (\d+) \+\+\+")
_KILLED = re.compile(r"\+\+\+ killed by (\w+)( \(core dumped\))? \+\+\+")
_STRING = r'"((?:\\x[0-9a-f]{2})*)"'
_EXEC = re.compile(rf"(?:(?:AT_FDCWD|\d+)<([^>]*)>, )?{_STRING}, \[([^]]*)\], 0x.*")
_FLAGS = re.compile(r"flags=([A-Z0-9_|]+)")


def command(output: Path, *traced: str) -> tuple[str, ...]:
    """What to run so that `output` will say all about a command and those below it."""
    calls = ",".join((*CALLS, "exit_group"))
    # Strings uncut, and so arrays.
    return (
        "strace",
        "-f",
        "-q",
        "-y",
        "-xx",
        "-s",
        "1000000",
        "-e",
        f"trace={calls}",
        "-o",
        str(output),
        *traced,
    )


@dataclass(frozen=True)
class Exec:
    """A successful exec: the path as it was given, relative perhaps, and the arguments. `line` is for people."""

    path: bytes
    argv: list[bytes]
    line: str


@dataclass(eq=False)
class Traced:
    """A process. `parent` is the one it was born to, None for the first; `threads` are those it made, by their ids.

    `maybe` is an exec in which it was killed, which may have come to its end.
    """

    pid: int
    parent: Traced | None = None
    threads: list[int] = field(default_factory=list)
    execs: list[Exec] = field(default_factory=list)
    maybe: Exec | None = None
    exit_code: int | None = None
    exit_signal: str | None = None
    core_dumped: bool = False
    lines: list[str] = field(default_factory=list)


@dataclass(eq=False)
class _Task:
    """A life of a thread's id, and what made it a task."""

    tid: int
    maker: _Task | None = None
    is_thread: bool = False
    is_brother: bool = False

    @property
    def leader(self) -> _Task:
        return self.maker.leader if self.is_thread and self.maker is not None else self

    @property
    def parent(self) -> _Task | None:
        """The leader of the process that this one was born to."""
        if self.maker is None:
            return None
        return self.maker.leader.parent if self.is_brother else self.maker.leader


class _Tasks:
    """Whose each line is; a number may be given anew to another task. `threads` are all but the leaders."""

    def __init__(self) -> None:
        self.lines: list[tuple[_Task, str]] = []
        self.threads: list[_Task] = []
        self._living: dict[int, _Task] = {}
        self._ended: dict[int, _Task] = {}
        # Forks whose result was not told, since the parent was killed: after how many lines.
        self._untold: list[tuple[int, _Task]] = []

    def take(self, tid: int, line: str) -> None:
        """Take the next line."""
        task = self._living.setdefault(tid, _Task(tid))
        self.lines.append((task, line))
        call = _CALL.fullmatch(line)
        if call is not None and call[1] in FORKS:
            found = _FLAGS.search(call[2])
            flags = found[1].split("|") if found else []
            birth = _Task(0, task, "CLONE_THREAD" in flags, "CLONE_PARENT" in flags)
            if call[3].isdigit():
                self._born(int(call[3]), birth)
            elif call[3] == "?":
                self._untold.append((len(self.lines), birth))
        elif superseded := _SUPERSEDED.fullmatch(line):
            thread = int(superseded[1])
            known = self._living.get(thread)
            if known is None or known.maker is None:
                # It was too fast for the result of its own making to be told.
                self._born(thread, _Task(0, task, is_thread=True))
            self._end(thread)
        elif _EXITED.fullmatch(line) or _KILLED.fullmatch(line):
            self._end(tid)

    def _born(self, tid: int, birth: _Task) -> None:
        """A task was made; it may have done something before, or all it ever does."""
        for known in (self._living.get(tid), self._ended.get(tid)):
            if known is not None and known.maker is None and known is not self.lines[0][0]:
                break
        else:
            known = self._living[tid] = _Task(tid)
        self._take_birth(known, birth)

    def find_untold(self) -> None:
        """Say of those whose fork's result was not told that they are of the one that was next to end so."""
        for number, (task, _line) in enumerate(self.lines):
            if task.maker is None and task is not self.lines[0][0]:
                place = next((n for n, (count, _) in enumerate(self._untold) if count > number), None)
                if place is None:
                    raise ValueError(f"nobody forked {task.tid}")
                self._take_birth(task, self._untold.pop(place)[1])

    def _take_birth(self, task: _Task, birth: _Task) -> None:
        task.maker, task.is_thread, task.is_brother = birth.maker, birth.is_thread, birth.is_brother
        if task.is_thread:
            self.threads.append(task)

    def _end(self, tid: int) -> None:
        self._ended[tid] = self._living.pop(tid)


def parse(text: str) -> list[Traced]:
    """The processes, in order of their first lines."""
    tasks = _Tasks()
    for tid, line in _whole_lines(text):
        tasks.take(tid, line)
    tasks.find_untold()
    processes: dict[_Task, Traced] = {}
    for task, line in tasks.lines:
        leader = task.leader
        process = processes.setdefault(leader, Traced(leader.tid))
        process.lines.append(f"{task.tid} {line}")
        if task is leader:
            _take_end(process, line)
        _take_exec(process, line)
    for thread in tasks.threads:
        processes[thread.leader].threads.append(thread.tid)
    for leader, process in processes.items():
        process.parent = None if leader.parent is None else processes[leader.parent]
    return list(processes.values())


def _whole_lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines with their threads' ids, of the parts of a call one; those on signals left out."""
    begun: dict[int, str] = {}
    for whole in text.splitlines():
        found = _LINE.fullmatch(whole)
        if found is None:
            raise ValueError(f"not understood: {whole[:200]}")
        tid, line = int(found[1]), found[3]
        if found[2] and not found[2].startswith("???"):
            begun[tid] = found[2]
        if line.startswith("---"):
            continue
        if unfinished := _UNFINISHED.fullmatch(line):
            begun[tid] = unfinished[1]
        elif changed := _CHANGED.fullmatch(line):
            begun[int(changed[2])] = changed[1]
        elif (superseded := _SUPERSEDED.fullmatch(line)) and int(superseded[1]) in begun:
            begun[tid] = begun.pop(int(superseded[1]))
            yield tid, line
        elif resumed := _RESUMED.fullmatch(line):
            yield tid, begun.pop(tid) + resumed[1]
        else:
            yield tid, line


def _take_end(process: Traced, line: str) -> None:
    if exited := _EXITED.fullmatch(line):
        process.exit_code = int(exited[1])
    elif killed := _KILLED.fullmatch(line):
        process.exit_signal = killed[1]
        process.core_dumped = killed[2] is not None


def _take_exec(process: Traced, line: str) -> None:
    call = _CALL.fullmatch(line)
    if call is None or call[1] not in ("execve", "execveat"):
        return
    if call[3] == "0":
        process.execs.append(_exec(call[2], line))
    elif call[3] == "?":
        process.maybe = _exec(call[2], line)


def _exec(arguments: str, line: str) -> Exec:
    found = _EXEC.fullmatch(arguments)
    if found is None:
        raise ValueError(f"not understood: {line[:400]}")
    directory, path, argv = (_bytes(found[1] or ""), _bytes(found[2]), found[3])
    if directory and not path.startswith(b"/"):
        # With an empty path it is the file that the descriptor is of.
        path = directory + b"/" + path if path else directory
    words = [_bytes(word) for word in re.findall(_STRING, argv)]
    if argv != ", ".join(f'"{_hex(word)}"' for word in words):
        raise ValueError(f"arguments not understood: {line[:400]}")
    return Exec(path, words, line)


def _bytes(hexadecimal: str) -> bytes:
    return bytes.fromhex(hexadecimal.replace("\\x", ""))


def _hex(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)
