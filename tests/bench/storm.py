# SPDX-License-Identifier: MIT
"""A storm of vforks: what of it is received, and what is lost.

The truth is the number of forks that the storm's workers made. Each is two events, FORK and EXIT.

The shipped configuration drops, by rule, what was forked and ended well without an exec: so DROPPED is the number
of the storm's processes that were seen from beginning to end, and of whatever others there were of that kind.
Others are bounded by the kernel's own count of all forks.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tests.bench.load import BenchError, Load, Storm, forks_of_the_machine
from tests.bench.measured import PATIENCE_SECONDS, forkstat, procwatchd

_PREFIX = "PROCWATCH_"
_TERMS = ("PRODUCED", "RECEIVED", "LOST", "UNNEEDED", "UNWRITTEN", "DROPPED", "LOGGED", "PENDING")


@dataclass(frozen=True, slots=True)
class DaemonStorm:
    """A storm as procwatchd saw it.

    `terms` is the ledger at its stop. `other_forks` were made by others in that time. `behind_seconds` is how long it
    went on working after the storm's end, None where it did not come to an end in time.
    """

    seconds: float
    forks: int
    other_forks: int
    terms: dict[str, int]
    behind_seconds: float | None
    peak_kib: int

    @property
    def events_per_second(self) -> float:
        """The storm's own events."""
        return 2 * self.forks / self.seconds

    @property
    def lost(self) -> int:
        """The events, of anybody, that were lost on their way or could not be written."""
        return self.terms["LOST"] + self.terms["UNWRITTEN"]

    @property
    def lost_share(self) -> float:
        """The share of all events that were lost."""
        return self.lost / max(1, self.terms["PRODUCED"])

    @property
    def unexplained(self) -> int:
        """How many processes too few (negative) or more than the others can account for were seen; 0 is right."""
        surplus = self.terms["DROPPED"] - self.forks
        return min(surplus, 0) or max(surplus - self.other_forks, 0)


@dataclass(frozen=True, slots=True)
class ForkstatStorm:
    """A storm as forkstat printed it: forks by the workers' PIDs, exits of whomever (so rather too many)."""

    seconds: float
    forks: int
    printed_forks: int
    printed_exits: int
    overruns: int

    @property
    def events_per_second(self) -> float:
        """The storm's own events."""
        return 2 * self.forks / self.seconds

    @property
    def lost_share(self) -> float:
        """The share of the storm's forks that were not printed."""
        return 1 - self.printed_forks / max(1, self.forks)


def measure_daemon(load: Load, seconds: float) -> DaemonStorm:
    """Let a storm loose on procwatchd with the shipped configuration."""
    others_before = forks_of_the_machine()
    with procwatchd() as daemon:
        storm = load.storm(seconds)
        behind_seconds = daemon.wait_until_quiet(PATIENCE_SECONDS)
        peak_kib = daemon.memory_kib("VmHWM")
        daemon.stop()
        terms = read_terms(daemon.output)
    other_forks = forks_of_the_machine() - others_before - storm.total
    return DaemonStorm(seconds, storm.total, other_forks, terms, behind_seconds, peak_kib)


def measure_forkstat(load: Load, seconds: float) -> ForkstatStorm:
    """Let a storm loose on forkstat, which shall print forks and exits and nothing else."""
    with forkstat("-e", "fork,exit") as program:
        storm = load.storm(seconds)
        program.wait_until_quiet(PATIENCE_SECONDS)
        program.stop()
        return ForkstatStorm(seconds, storm.total, *_count_lines(program.output, storm))


def read_terms(output: Path) -> dict[str, int]:
    """The ledger in the stop entry, the last that the daemon writes."""
    with output.open("rb") as lines:
        for line in lines:
            if b'"stop"' in line and (entry := json.loads(line)).get(_PREFIX + "EVENT") == "stop":
                return {name: int(entry[_PREFIX + name]) for name in _TERMS}
    raise BenchError("procwatchd wrote no stop entry")


def _count_lines(output: Path, storm: Storm) -> tuple[int, int, int]:
    """How many forks by the storm's workers, how many exits at all, and how many overruns forkstat printed.

    A fork is two lines, `TIME fork PID parent …` and `TIME fork PID child …`; an overrun is `TIME recv ----- nobufs …`.
    """
    workers = {str(pid).encode() for pid in storm.forks}
    forks = exits = overruns = 0
    with output.open("rb") as lines:
        for line in lines:
            words = line.split(None, 4)
            if words[1:2] == [b"exit"]:
                exits += 1
            elif words[1:2] == [b"fork"] and words[3:4] == [b"parent"] and words[2] in workers:
                forks += 1
            elif words[1:4] == [b"recv", b"-----", b"nobufs"]:
                overruns += 1
    return forks, exits, overruns
