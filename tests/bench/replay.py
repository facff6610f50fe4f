# SPDX-License-Identifier: MIT
"""The way of an event without the kernel: made-up datagrams through the worker, and each step after it alone.

The worker has the shipped configuration, with a limit that nothing reaches, and a writer that takes everything and
writes nothing. CPU time is that of this whole process, where only the worker has anything to do.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from statistics import median
from typing import TypeVar

from procwatchd.config import Config, load_config
from procwatchd.journal.build import EntryBuilder
from procwatchd.journal.entry import Entry
from procwatchd.journal.jsonlines import encode_fields
from procwatchd.journal.native import encode
from procwatchd.journal.writer import Loss
from procwatchd.kernel import wire
from procwatchd.kernel.clock import Clock
from procwatchd.kernel.queue import Batch, BatchQueue
from procwatchd.process import table as lives
from procwatchd.process.model import Record
from procwatchd.process.procfs import Reader
from procwatchd.process.users import Users
from procwatchd.rules.limit import Rate
from procwatchd.rules.redact import KEY_BYTES, Redactor
from procwatchd.rules.ruleset import Decision
from procwatchd.worker import Worker, wants
from tests.bench.load import BenchError
from tests.bench.measured import SHIPPED_CONFIGURATION
from tests.bench.table import Row, Table

_Item = TypeVar("_Item")

ROUNDS = 3
# What the listener hands over at once in a storm.
BATCH_EVENTS = 128
# Beyond what any kernel gives to a process: nobody in /proc can be taken for one of these.
FIRST_PID = 1 << 23
PARENT_PID = 1
EVENT_NS = 10_000
FAILURE = 1 << 8


@dataclass(frozen=True, slots=True)
class Step:
    """CPU time of one step, in µs per event or entry, each round."""

    rounds_usec: list[float]

    @property
    def usec(self) -> float:
        """The round in the middle."""
        return median(self.rounds_usec)


@dataclass(frozen=True, slots=True)
class Replay:
    """`dropped` and `logged`: per event of FORK and EXIT pairs; the others per entry of an exec."""

    dropped: Step
    logged: Step
    build: Step
    json: Step
    native: Step


class _Nowhere:
    """A writer that only counts."""

    broken = False
    held_events = 0
    unwritten_events = 0

    def __init__(self) -> None:
        self.written_events = 0

    def write(self, entry: Entry) -> None:
        self.written_events += entry.events

    def flush(self) -> None:
        pass

    def wait(self, timeout_seconds: float) -> bool:  # noqa: ARG002 - as the protocol has it
        return True

    def take_loss(self) -> Loss | None:
        return None

    def close(self) -> None:
        pass


def measure(events: int, entries: int) -> Replay:
    """Replay so many events, build and encode so many entries, each in a few rounds."""
    config = load_config(str(SHIPPED_CONFIGURATION))
    # All is logged, however fast it comes.
    config = replace(config, log=replace(config.log, limit=Rate(1_000_000, 1_000_000_000)))
    redactor = Redactor(os.urandom(KEY_BYTES))
    builder = EntryBuilder(Clock(), config.log.fields, config.log.max_argv_bytes, redactor)

    def decided() -> list[tuple[Record, Decision]]:
        return [(record, config.rules.decide(record)) for record in _exec_records(config, builder, entries)]

    made = [builder.build(record, decision) for record, decision in decided()]
    return Replay(
        dropped=Step([_replay(config, events, 0) for _ in range(ROUNDS)]),
        logged=Step([_replay(config, events, FAILURE) for _ in range(ROUNDS)]),
        build=_step(decided, lambda pair: builder.build(*pair)),
        json=_step(lambda: made, lambda entry: encode_fields(entry.fields)),
        native=_step(lambda: made, encode),
    )


def _replay(config: Config, events: int, status: int) -> float:
    """The µs per event of processes that are forked, and end with this status."""
    batches = BatchQueue(events * wire.EVENT_BYTES)
    writer = _Nowhere()
    worker = Worker(config, batches, writer, Clock(), Users())
    worker.scan()
    for datagrams in _datagrams(events, status):
        if not batches.put(Batch(datagrams)):
            raise BenchError("the queue does not take the events to replay")
    with _settled_memory():
        before_ns = time.process_time_ns()
        worker.start(lambda: None)
        worker.stop()
        used_ns = time.process_time_ns() - before_ns
    decided = worker.ledger.dropped if status == 0 else writer.written_events
    if decided != events // 2:
        raise BenchError(f"of {events // 2} processes replayed, the worker decided on {decided}")
    return used_ns / 1000 / events


def _datagrams(events: int, status: int) -> list[bytes]:
    """Batches of FORK and EXIT, one process after the other, children of PID 1."""
    now_ns = time.monotonic_ns()
    one_by_one = []
    for n in range(events // 2):
        pid, at_ns = FIRST_PID + n, now_ns + n * EVENT_NS
        fork = (PARENT_PID, PARENT_PID, pid, pid)
        ended = (pid, pid, status, signal.SIGCHLD, PARENT_PID, PARENT_PID)
        one_by_one.append(wire.encode_event(wire.FORK, *fork, timestamp_ns=at_ns, seq=2 * n))
        one_by_one.append(
            wire.encode_event(wire.EXIT, *ended, timestamp_ns=at_ns + EVENT_NS // 2, seq=2 * n + 1)
        )
    return [b"".join(one_by_one[n : n + BATCH_EVENTS]) for n in range(0, events, BATCH_EVENTS)]


def _exec_records(config: Config, builder: EntryBuilder, count: int) -> list[Record]:
    """Records of as many execs: of this process again and again, each with an image of its own, as execs have."""
    reader = Reader(wants(config, builder, config.rules))
    alive = lives.Table(Clock(), Users())
    alive.scan(reader)
    pid, now_ns = os.getpid(), time.monotonic_ns()
    reading = reader.read(pid)
    processes = [alive.exec(pid, reading, now_ns) for _ in range(count)]
    return [Record("exec", process, now_ns, "proc", process.image.identity) for process in processes]


def _step(make: Callable[[], list[_Item]], do: Callable[[_Item], object]) -> Step:
    """Do something with each of the items that are made, not measured, for each round."""
    rounds_usec = []
    for _ in range(ROUNDS):
        items = make()
        with _settled_memory():
            before_ns = time.process_time_ns()
            for item in items:
                do(item)
            rounds_usec.append((time.process_time_ns() - before_ns) / 1000 / len(items))
    return Step(rounds_usec)


@contextlib.contextmanager
def _settled_memory() -> Iterator[None]:
    """Keep the collector from looking at what the benchmark itself holds, as the daemon does after its start."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def table(replay: Replay) -> Table:
    """µs of each step."""
    rows = [
        Row(name, (f"{step.usec:.2f}",), details=(_rounds(step),))
        for name, step in (
            ("fork and exit, dropped, an event", replay.dropped),
            ("fork and exit, all exits logged, an event", replay.logged),
            ("building an exec's entry", replay.build),
            ("  as JSON", replay.json),
            ("  in the native protocol", replay.native),
        )
    ]
    return Table("the worker alone, made-up events, µs", ("procwatchd",), rows)


def _rounds(step: Step) -> str:
    return f"each round: {', '.join(f'{usec:.2f}' for usec in step.rounds_usec)}"
