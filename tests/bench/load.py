# SPDX-License-Identifier: MIT
"""The load that is put on the machine, and the truth about it: made by a small C program, since Python is too slow."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("load.c")
WORKERS = 2
# By this argument a spawned process's command line is known to be its own.
MARK = "procwatchd-bench"
PROGRAM = ("/bin/true", MARK)


class BenchError(Exception):
    """A measurement that cannot be made; the message says what is missing or went wrong."""


@dataclass(frozen=True, slots=True)
class Storm:
    """A storm that was: its workers' PIDs, and the forks that each of them made."""

    forks: dict[int, int]

    @property
    def total(self) -> int:
        """The forks of all workers."""
        return sum(self.forks.values())


class Load:
    """The compiled load program, in a directory that is the caller's."""

    def __init__(self, directory: Path) -> None:
        self._program = str(directory / "load")
        command = ["cc", "-O2", "-Wall", "-Wextra", "-o", self._program, str(SOURCE)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except FileNotFoundError as error:
            raise BenchError("there is no C compiler: apt-get install gcc libc6-dev") from error
        except subprocess.CalledProcessError as error:
            raise BenchError(f"{SOURCE.name} does not compile: {error.stderr}") from error

    def storm(self, seconds: float) -> Storm:
        """Have two workers vfork at full speed for so long. Nothing of it is left when this returns."""
        workers: list[subprocess.Popen[str]] = []
        try:
            for _ in range(WORKERS):
                command = [self._program, "storm", str(seconds)]
                workers.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            return Storm({worker.pid: int(_output(worker)) for worker in workers})
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()

    def spawn(self, count: int) -> list[int]:
        """Run `PROGRAM` so many times, one after the other; gives the PIDs."""
        command = [self._program, "spawn", str(count), *PROGRAM]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
            try:
                return [int(line) for line in _output(worker).split()]
            finally:
                worker.kill()


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
