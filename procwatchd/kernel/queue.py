# SPDX-License-Identifier: MIT
"""The bounded queue between the listener and the worker."""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from dataclasses import dataclass, field

from procwatchd.kernel.recorder import NO_RECORDINGS, Recordings
from procwatchd.kernel.wire import EVENT_BYTES

# 128 MiB are 1.7 million events, or 0.2 million ends with their records: far more than the socket holds, and used only
# while the worker is behind.
QUEUE_BYTES = 128 << 20

# What is taken at once; the rest of a long queue comes with the next `get`, so that decoding it takes little memory.
TAKE_BYTES = 8192 * 76


@dataclass(slots=True)
class Batch:
    """What the listener hands over at once.

    `datagrams` are of 76 bytes each, end to end. `records` are taskstats messages, end to end: those of all EXITs
    among the datagrams that did not come before, and maybe of later ones. `recordings` are the recorder's, likewise.
    `received_ns` is when (CLOCK_MONOTONIC).

    The counters are totals since the sockets were opened, as of this batch. In datagrams: `foreign` (not the kernel's)
    and `odd` (not of 76 bytes), that were received but are in no `datagrams`; `kernel_drops` where the socket had no
    room, and `queue_lost` where the queue had none. In records: `records_lost` for want of room; in recordings:
    `execs_lost`, `signals_lost`, and `pending_lost` of signals that were blocked.
    """

    datagrams: bytes
    foreign: int = 0
    odd: int = 0
    kernel_drops: int = 0
    queue_lost: int = 0
    records: bytes = b""
    records_lost: int = 0
    recordings: Recordings = NO_RECORDINGS
    execs_lost: int = 0
    signals_lost: int = 0
    pending_lost: int = 0
    received_ns: int = field(default_factory=time.monotonic_ns, compare=False)

    @property
    def size_bytes(self) -> int:
        """How much it holds."""
        recordings = sum(map(len, self.recordings.execs)) + sum(map(len, self.recordings.signals))
        return len(self.datagrams) + len(self.records) + recordings

    @property
    def events(self) -> int:
        """How many datagrams it holds."""
        return len(self.datagrams) // EVENT_BYTES


class BatchQueue:
    """First in, first out, bounded in bytes; one thread puts, one gets, neither waits for the other's work.

    Each counter has one writer, so that no lock is needed: `put_bytes` and `put_events` are the putting thread's,
    `taken_bytes` and `taken_events` the getting one's.
    """

    def __init__(self, limit_bytes: int = QUEUE_BYTES) -> None:
        self.put_bytes = 0
        self.taken_bytes = 0
        self.put_events = 0
        self.taken_events = 0
        self._limit_bytes = limit_bytes
        self._batches: deque[Batch] = deque()
        self._ready = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        """A descriptor that can be read where there is something to get, or after a `wake`."""
        return self._ready

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._ready)

    @property
    def waiting_bytes(self) -> int:
        """How much was put and not yet taken."""
        return self.put_bytes - self.taken_bytes

    @property
    def waiting_events(self) -> int:
        """How many events were put and not yet taken."""
        return self.put_events - self.taken_events

    @property
    def fill(self) -> float:
        """Which part of the room is taken."""
        return self.waiting_bytes / self._limit_bytes

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits, not even a batch without datagrams."""
        return not self._batches

    def put(self, batch: Batch) -> bool:
        """Hand a batch over; False, and nothing done, where there is no room. Never blocks."""
        size = batch.size_bytes
        if self.waiting_bytes + size > self._limit_bytes:
            return False
        self.put_bytes += size
        self.put_events += batch.events
        self._batches.append(batch)
        os.eventfd_write(self._ready, 1)
        return True

    def wake(self) -> None:
        """End a wait for the descriptor."""
        os.eventfd_write(self._ready, 1)

    def get(self) -> list[Batch]:
        """What was put, up to `TAKE_BYTES`. Never waits."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._ready)
        taken: list[Batch] = []
        size = 0
        while self._batches:
            if size >= TAKE_BYTES:
                os.eventfd_write(self._ready, 1)
                break
            batch = self._batches.popleft()
            size += batch.size_bytes
            self.taken_events += batch.events
            taken.append(batch)
        self.taken_bytes += size
        return taken
