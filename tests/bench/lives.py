# SPDX-License-Identifier: MIT
"""Processes whose truth is known, made by a C program (helpers/life.c); and listeners that are blinded.

The lives last long enough to be looked at: whether a program is in time for short ones is another benchmark's question.

Facts:
- From Linux 6.6 on anybody can lower the kernel's count of listeners, until it tells nobody anything. A program that
  ends without a goodbye stays counted; LISTEN by a new socket always counts [drivers/connector/cn_proc.c].
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from procwatchd.kernel import wire
from procwatchd.kernel.connector import find_ack, open_socket
from tests.bench.load import BenchError
from tests.bench.measured import ROOT, listeners
from tests.bench.told import status_text

_LIFE = Path(__file__).with_name("helpers") / "life.c"
_DEAFEN = ROOT / "tests" / "integration" / "helpers" / "deafen.c"
_NOBODY = 65534
# How far below none the count of listeners is brought, and how many times it is raised at most.
_DEPTH = 50
_RAISES = 100_000
# Of a request; the answer has the next number.
_ASKED = 0x6265


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
    """The compiled helpers, in a directory that is the caller's; anybody may look for a program in it from now on."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.program = _compile(_LIFE, directory)
        self._deafen = _compile(_DEAFEN, directory)
        # Nobody else than root could run the one that is to be run by somebody else.
        directory.chmod(0o711)

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

    def blind(self) -> bool:
        """Have an unprivileged process blind all listeners; False where the kernel does not let it.

        `restore` is to follow.
        """
        if not _may_anybody_blind():
            return False
        command = [self._deafen, str(_DEPTH)]
        done = subprocess.run(
            command, capture_output=True, check=False, user=_NOBODY, group=_NOBODY, extra_groups=[]
        )
        if done.returncode:
            restore()
            raise BenchError(f"the listeners cannot be blinded: {done.stderr.decode().strip()}")
        return True


def restore() -> None:
    """Have all listeners see again, and each of them counted: when one says goodbye, the others go on to see."""
    if not any(_raise_count() for _ in range(_RAISES)):
        raise BenchError("the kernel does not tell anything of processes any more")
    for _ in listeners():
        _raise_count()


def _raise_count() -> bool:
    """Have one listener more counted, who is not there; gives whether the kernel counts any now."""
    with open_socket() as listener:
        listener.send(wire.encode_request(wire.LISTEN, seq=0, ack=_ASKED))
        listener.setblocking(False)
        try:
            while find_ack(listener.recv(wire.EVENT_BYTES), _ASKED + 1) is None:
                pass
        except BlockingIOError:
            return False
    return True


def _may_anybody_blind() -> bool:
    version = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return version is not None and (int(version[1]), int(version[2])) >= (6, 6)


def _compile(source: Path, directory: Path) -> str:
    program = str(directory / source.stem)
    command = ["cc", "-O2", "-Wall", "-Wextra", "-pthread", "-o", program, str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"{source.name} does not compile: {done.stderr}")
    return program
