# SPDX-License-Identifier: MIT
"""How much memory the daemon has, and whether it stays at that."""

from __future__ import annotations

import time
from dataclasses import dataclass

from tests.bench.load import Load
from tests.bench.measured import procwatchd

IDLE_SECONDS = 2.0


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
