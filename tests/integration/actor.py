# SPDX-License-Identifier: MIT
"""Processes for the daemon to see, that do what a test tells them and no more; and what /proc says of them."""

from __future__ import annotations

import os
import pwd
import subprocess
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

Arg = str | bytes


class Actor:
    """A context: a process that runs `command`, most often `steps` (helpers/steps.c); gone at the end."""

    def __init__(self, *command: Arg, **options: Any) -> None:
        options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, **options}
        self.process: subprocess.Popen[bytes] = subprocess.Popen(command, **options)
        self.pid = self.process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self.process.returncode is None:
            self.process.kill()
            self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()

    def reached(self) -> Self:
        """Return when the process is at its next `wait`."""
        assert _pipe(self.process.stdout).read(1) == b"."
        return self

    def go(self) -> None:
        """Let it go on."""
        pipe = _pipe(self.process.stdin)
        pipe.write(b"\n")
        pipe.flush()

    def pass_wait(self) -> None:
        """Wait until it waits, and let it go on."""
        self.reached().go()

    def end(self) -> int:
        """Wait for its end; gives the wait status, as the parent sees it."""
        _pid, status = os.waitpid(self.pid, 0)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        return status


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


def stat_fields(pid: int) -> list[bytes]:
    """/proc/PID/stat from field 3 on: what is at n here is field n + 3."""
    return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2].split()


def process_id(pid: int) -> str:
    """`PID-STARTTIME` as /proc has it."""
    return f"{pid}-{int(stat_fields(pid)[19])}"


def comm_of(pid: int) -> str:
    """The name of a process that has a clean one."""
    return Path(f"/proc/{pid}/comm").read_bytes().removesuffix(b"\n").decode()


def argv_of(pid: int) -> list[bytes]:
    """The arguments of a process."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().removesuffix(b"\0").split(b"\0")


def ppid_of(pid: int) -> int:
    """The parent's PID, by now."""
    return int(stat_fields(pid)[1])


def ancestors_of(pid: int) -> str:
    """`bash[4700] systemd[1]`, as they are now."""
    found = []
    while pid := ppid_of(pid):
        found.append(f"{comm_of(pid)}[{pid}]")
    return " ".join(found)


def ids_of(pid: int) -> dict[str, str]:
    """The fields on its users and groups."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    uid = next(line for line in lines if line.startswith("Uid:")).split()
    gid = next(line for line in lines if line.startswith("Gid:")).split()
    return {
        "UID": uid[1],
        "EUID": uid[2],
        "GID": gid[1],
        "EGID": gid[2],
        "USER": pwd.getpwuid(int(uid[1])).pw_name,
    }
