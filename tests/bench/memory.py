# SPDX-License-Identifier: MIT
"""How much memory the daemon has, and whether it stays at that: idle, after many events, with many who live.

Facts:
- Where the kernel gives out no more than 32768 PIDs, as it does on small machines, more processes cannot live: for
  them kernel.pid_max is raised, and set back.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.bench.load import Load
from tests.bench.measured import PATIENCE_SECONDS, procwatchd
from tests.bench.table import Row, Table

IDLE_SECONDS = 2.0
TARGET_IDLE_MIB = 45
TARGET_PROCESS_KB = 1.5
# More than this share of all is no longer called flat.
TARGET_GROWTH = 0.05
# What the machine has of PIDs besides those that live.
_SPARE_PIDS = 16384
_PID_MAX = Path("/proc/sys/kernel/pid_max")


@dataclass(frozen=True, slots=True)
class Sample:
    """Resident memory after so many events of the storm, with all of them worked off."""

    events: int
    rss_kib: int


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory when idle (the first sample, no events yet), over a storm in slices, and at most."""

    samples: list[Sample]
    peak_kib: int

    @property
    def idle_kib(self) -> int:
        """Two seconds after the daemon was ready."""
        return self.samples[0].rss_kib

    @property
    def growth_kib(self) -> int:
        """In the second half of the events: in the first, what is made once was made."""
        half = self.samples[-1].events // 2
        middle = next(sample for sample in self.samples if sample.events >= half)
        return self.samples[-1].rss_kib - middle.rss_kib


@dataclass(frozen=True, slots=True)
class Living:
    """Resident memory before and while so many `processes` lived, of as many as were `wanted`."""

    wanted: int
    processes: int
    before_kib: int
    with_kib: int

    @property
    def kb_per_process(self) -> float:
        """What each of them took more."""
        return (self.with_kib - self.before_kib) * 1.024 / max(1, self.processes)


def measure(load: Load, *, events: int, slice_seconds: float) -> Memory:
    """Storm in slices, until there were so many events; a sample after each slice, when the daemon is quiet."""
    with procwatchd() as daemon:
        time.sleep(IDLE_SECONDS)
        samples = [Sample(0, daemon.memory_kib())]
        while samples[-1].events < events:
            storm = load.storm(slice_seconds)
            daemon.wait_until_quiet()
            samples.append(Sample(samples[-1].events + 2 * storm.total, daemon.memory_kib()))
        memory = Memory(samples, daemon.memory_kib("VmHWM"))
        daemon.stop()
    return memory


def measure_living(load: Load, wanted: int) -> Living:
    """Have that many processes live at once, after the daemon was started."""
    with _pid_max(wanted + _SPARE_PIDS), procwatchd() as daemon:
        time.sleep(IDLE_SECONDS)
        before_kib = daemon.memory_kib()
        with load.living(wanted) as processes:
            daemon.wait_until_quiet(PATIENCE_SECONDS)
            living = Living(wanted, processes, before_kib, daemon.memory_kib())
        daemon.wait_until_quiet(PATIENCE_SECONDS)
        daemon.stop()
    return living


@contextlib.contextmanager
def _pid_max(least: int) -> Iterator[None]:
    before = int(_PID_MAX.read_text())
    if before >= least:
        yield
        return
    _PID_MAX.write_text(str(least))
    try:
        yield
    finally:
        _PID_MAX.write_text(str(before))


def table(memory: Memory, living: Living) -> Table:
    """RSS in MiB, and what each living process takes."""
    last = memory.samples[-1]
    idle_mib = memory.idle_kib / 1024
    slices = tuple(f"after {one.events:,} events: {_mib(one.rss_kib)}" for one in memory.samples[1:])
    all_lived = living.processes == living.wanted
    rows = [
        Row("idle", (_mib(memory.idle_kib),), f"≤ {TARGET_IDLE_MIB}", idle_mib <= TARGET_IDLE_MIB),
        Row(f"after {last.events:,} events of a storm", (_mib(last.rss_kib),), details=slices),
        Row(
            "  grown in the second half",
            (f"{memory.growth_kib / 1024:+.1f}",),
            "flat",
            memory.growth_kib <= TARGET_GROWTH * last.rss_kib,
        ),
        Row("  at most, while events waited", (_mib(memory.peak_kib),)),
        Row(f"with {living.processes:,} living processes", (_mib(living.with_kib),)),
        Row(
            "  kB a process",
            (f"{living.kb_per_process:.2f}",),
            f"≤ {TARGET_PROCESS_KB}",
            living.kb_per_process <= TARGET_PROCESS_KB,
        ),
    ]
    notes = (
        () if all_lived else (f"of {living.wanted:,} processes the machine let {living.processes:,} live",)
    )
    return Table("RSS of procwatchd, MiB", ("procwatchd",), rows, notes)


def _mib(kib: int) -> str:
    return f"{kib / 1024:.1f}"
