# SPDX-License-Identifier: MIT
"""How long it takes from the start of a program to its entry in the journal, when there is little to do.

From the clock just before posix_spawn. Two readers take the time: one looks all the time and sees an entry when it can
be read, the other sleeps until it is told, as `journalctl -f` does.

Facts:
- journald tells those who wait at most each 250 ms [journal_file_enable_post_change_timer, POST_CHANGE_TIMER_INTERVAL].
- sd_journal_next goes by the file's own count of entries, whether it was told or not [sd-journal.c].
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from systemd import journal

from tests.bench.load import Load, Spawned
from tests.bench.measured import procwatchd
from tests.bench.table import Row, Table
from tests.integration.journald import PrivateJournald

RATE = 20
_LOOK_SECONDS = 0.0005
_WAIT_SECONDS = 0.1
_GRACE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Delays:
    """Of one reader: ms from start to entry, in order of size; `missing` had no entry."""

    sorted_ms: list[float]
    missing: int

    def percentile(self, share: float) -> float:
        """That of so large a share of the entries was no longer; NaN where there is none."""
        if not self.sorted_ms:
            return float("nan")
        return self.sorted_ms[min(len(self.sorted_ms) - 1, int(share * len(self.sorted_ms)))]


@dataclass(frozen=True, slots=True)
class Latency:
    """What both readers saw of so many processes."""

    processes: int
    readable: Delays
    told: Delays


def measure(load: Load, processes: int) -> Latency:
    """Start that many processes at a light load, and see when their entries come."""
    with PrivateJournald() as journald, procwatchd(journald=journald):
        with _reader(journald, _look) as readable, _reader(journald, _wait) as told:
            spawned = load.spawn(processes, rate=RATE)
            time.sleep(_GRACE_SECONDS)
        return Latency(processes, find_delays(spawned, readable), find_delays(spawned, told))


def find_delays(spawned: list[Spawned], seen: list[tuple[int, int]]) -> Delays:
    """Match entries, PID and time as they were `seen`, with processes: theirs is the PID's first after the start."""
    by_pid = defaultdict(list)
    for pid, seen_ns in seen:
        by_pid[pid].append(seen_ns)
    delays = []
    for one in spawned:
        after = [seen_ns for seen_ns in by_pid[one.pid] if seen_ns > one.at_ns]
        delays += [(after[0] - one.at_ns) / 1e6] if after else []
    return Delays(sorted(delays), len(spawned) - len(delays))


@contextlib.contextmanager
def _reader(
    journald: PrivateJournald, pause: Callable[[journal.Reader], None]
) -> Iterator[list[tuple[int, int]]]:
    """The PID of each exec's entry and when it was seen, filled in as long as this is not left."""
    seen: list[tuple[int, int]] = []
    end = threading.Event()

    def read() -> None:
        with journal.Reader(path=str(journald.logs)) as reader:
            reader.add_match("PROCWATCH_EVENT=exec")
            reader.seek_head()
            while not end.is_set():
                while entry := reader.get_next():
                    seen.append((int(entry["PROCWATCH_PID"]), time.clock_gettime_ns(time.CLOCK_MONOTONIC)))
                pause(reader)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield seen
    finally:
        end.set()
        thread.join()


def _look(_reader: journal.Reader) -> None:
    time.sleep(_LOOK_SECONDS)


def _wait(reader: journal.Reader) -> None:
    reader.wait(_WAIT_SECONDS)


def table(latency: Latency) -> Table:
    """The middle and the slowest of a hundred."""
    both = latency.readable, latency.told
    rows = [
        Row("p50, ms", tuple(f"{one.percentile(0.5):.1f}" for one in both)),
        Row("p99, ms", tuple(f"{one.percentile(0.99):.1f}" for one in both)),
        Row("no entry", tuple(str(one.missing) for one in both), "0", latency.readable.missing == 0),
    ]
    columns = "readable", "told by journald"
    return Table(f"exec to entry in the journal, {latency.processes} at {RATE}/s", columns, rows)
