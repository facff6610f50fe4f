# SPDX-License-Identifier: MIT
"""The load that is put on the machine, and the truth about it: made by a small C program, since Python is too slow."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("load.c")
HELPERS = Path(__file__).with_name("helpers")
WORKERS = 2
# By this argument a spawned process's command line is known to be its own; after it comes the process's number.
MARK = "procwatchd-bench"
PROGRAM = ("/bin/true", MARK)


class BenchError(Exception):
    """A measurement that cannot be made; the message says what is missing or went wrong."""


@dataclass(frozen=True, slots=True)
class Storm:
    """A storm that was: its workers' PIDs, and how many children or threads each of them made."""

    forks: dict[int, int]

    @property
    def total(self) -> int:
        """What all workers made."""
        return sum(self.forks.values())


@dataclass(frozen=True, slots=True)
class Spawned:
    """A process that was run: `at_ns` is CLOCK_MONOTONIC just before it was started."""

    pid: int
    at_ns: int


class Load:
    """The compiled load program, in a directory that is the caller's."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._program = compile_program(SOURCE, directory / "load", "-pthread")

    def storm(self, seconds: float, kind: str = "vfork", *, count: int = 0) -> Storm:
        """Have two workers make children (`vfork`) or threads (`thread`) at full speed.

        It ends after so long or after so many of each worker's, 0 for no such end. Nothing of it is left then.
        """
        workers: list[subprocess.Popen[str]] = []
        try:
            for _ in range(WORKERS):
                command = [self._program, kind, str(seconds), str(count)]
                workers.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            return Storm({worker.pid: int(_output(worker)) for worker in workers})
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()

    def spawn(
        self,
        count: int,
        program: tuple[str, ...] = PROGRAM,
        *,
        rate: float = 0,
        cpu: int | None = None,
    ) -> list[Spawned]:
        """Run a program so many times, one after the other; each has its number as its last argument.

        `rate` is how many a second, 0 for as fast as can be; `cpu` is the one that all of it runs on.
        """
        pinned = [] if cpu is None else ["taskset", "-c", str(cpu)]
        command = [*pinned, self._program, "spawn", str(count), str(rate), *program]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
            try:
                lines = _output(worker).splitlines()
            finally:
                worker.kill()
        return [Spawned(int(pid), int(at_ns)) for pid, at_ns in map(str.split, lines)]

    @contextlib.contextmanager
    def living(self, count: int) -> Iterator[int]:
        """So many processes that do nothing; gives how many the machine let live."""
        command = [self._program, "live", str(count)]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as worker:
            try:
                assert worker.stdout is not None
                yield int(worker.stdout.readline())
            finally:
                # Its children die with it.
                worker.kill()

    @contextlib.contextmanager
    def busy(self, loops: int) -> Iterator[None]:
        """So many endless loops, each wanting a CPU for itself."""
        workers = [subprocess.Popen([self._program, "spin"]) for _ in range(loops)]
        try:
            yield
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()

    def program(self, source: str, name: str, *options: str) -> str:
        """The path of a helper, compiled with these options."""
        return compile_program(HELPERS / source, self._directory / name, *options)


def compile_program(source: Path, program: Path, *options: str) -> str:
    """Compile a C program; gives its path."""
    command = ["cc", "-O2", "-Wall", "-Wextra", *options, "-o", str(program), str(source)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise BenchError("there is no C compiler: apt-get install gcc libc6-dev") from error
    except subprocess.CalledProcessError as error:
        raise BenchError(f"{source.name} does not compile: {error.stderr}") from error
    return str(program)


def forks_of_the_machine() -> int:
    """How many processes and threads were ever made on this machine, by the kernel's own count."""
    for line in Path("/proc/stat").read_text().splitlines():
        name, _, value = line.partition(" ")
        if name == "processes":
            return int(value)
    raise BenchError("/proc/stat does not say how many processes were made")


def _output(worker: subprocess.Popen[str]) -> str:
    output, _ = worker.communicate()
    if worker.returncode:
        raise BenchError(f"the load program ended with {worker.returncode}")
    return output
