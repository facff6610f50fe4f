# SPDX-License-Identifier: MIT
"""The worker: the way of an event from the queue to its entry.

Two phases. At once, when the bell rings: read /proc for the EXEC, which races against the process's end. Then, event by
event in the order of arrival: the table, the rules, the entry. A batch comes to that when the next one is there,
or none was for a moment: so the next events can say what the readings were worth, and one waking serves many events.
Every event ends in one place of the ledger.
"""

from __future__ import annotations

import dataclasses
import os
import select
import threading
import time
import traceback
from collections.abc import Callable

from procwatchd.config import Config
from procwatchd.journal.build import EntryBuilder
from procwatchd.journal.kinds import WARNING
from procwatchd.journal.writer import Writer
from procwatchd.kernel import wire
from procwatchd.kernel.bell import Bell
from procwatchd.kernel.clock import Clock
from procwatchd.kernel.queue import Batch, BatchQueue
from procwatchd.kernel.wire import RawEvent
from procwatchd.ledger import Ledger
from procwatchd.process.enrich import Outcome, hear, is_settled, read_execs, read_ids, sent_by_execs, settle
from procwatchd.process.model import Record
from procwatchd.process.procfs import Reader, Reading, Wants
from procwatchd.process.records import RecordMaker
from procwatchd.process.table import Table
from procwatchd.process.users import Users
from procwatchd.rules.ruleset import RuleSet

IDLE_SECONDS = 1.0

# How long a batch waits for the next one.
SETTLE_SECONDS = 0.04

# Readings that wait for their events.
HEARD_LIMIT = 1024
# While events are brought to their entries, the bell is heard after so many.
HEAR_EVERY = 16

# How soon a writer that could not write all tries again; each time later, while it cannot.
HELD_SECONDS = 0.002
HELD_MOST_SECONDS = 0.1
FAILURES_SHOWN = 100


def wants(config: Config, builder: EntryBuilder, rules: RuleSet) -> Wants:
    """What of /proc the configuration has a use for."""
    names = builder.wanted | rules.needs
    place = {"CGROUP", "UNIT", "USER_UNIT", "SLICE", "SESSION", "CONTAINER_ID"}
    return Wants(
        cwd="CWD" in names,
        tty="TTY" in names,
        loginuid="LOGINUID" in names,
        audit_session="AUDIT_SESSION" in names,
        cgroup=bool(names & place),
        namespaces=bool(names & {"MOUNT_NAMESPACE", "USER_NAMESPACE", "EXE"}),
        executable=config.capture.hash != "off",
        environment=tuple(name.encode() for name in config.capture.environment),
    )


class Worker:
    """One thread that takes batches and writes entries.

    `running` says whether its thread is; `progress` grows while that is not stuck. Other threads talk to it by
    `ask`: what they ask is done on the worker's thread, between two events.
    """

    def __init__(
        self,
        config: Config,
        batches: BatchQueue,
        writer: Writer,
        clock: Clock,
        users: Users,
        *,
        bell: Bell | None = None,
        proc: str = "/proc",
    ) -> None:
        self.running = False
        self.progress = 0
        self.ledger = Ledger()
        self.table = Table(clock, users)
        self.writer = writer
        self._batches = batches
        self._bell = bell
        self._poller = select.poll()
        self._poller.register(batches, select.POLLIN)
        if bell is not None:
            self._poller.register(bell, select.POLLIN)
        self._clock = clock
        self._users = users
        self._reader = Reader(Wants(), proc=proc)
        self._own_pid = os.getpid()
        self._records = RecordMaker(self.table, self._own_pid)
        self._asked: list[Callable[[], None]] = []
        self._stopping = False
        self._last_event_ns = 0
        self._next_second = 0.0
        self._held_seconds = 0.0
        self._unused_readings = 0
        # What was read before its event came, by tgid and timestamp.
        self._heard: dict[tuple[int, int], Outcome] = {}
        # What waits for the next batch; where the last one begins; until when.
        self._events: list[RawEvent] = []
        self._outcomes: dict[int, Outcome] = {}
        self._last_first = 0
        self._due = 0.0
        # Of the events at hand, those that an exec may have sent; and such changes until their image is there.
        self._sent_by_execs: set[RawEvent] = set()
        self._credited: dict[int, list[Record]] = {}
        self._loss = _Loss()
        self._on_end: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._run, name="worker", daemon=True)
        self.configure(config)

    def configure(self, config: Config) -> None:
        """Work by this configuration from now on. On the worker's thread, or before it runs."""
        self.config = config
        self._rules = config.rules
        self._records.configure(config.capture.events, threads=config.capture.threads)
        self.builder = EntryBuilder(self._clock, config.log.fields, config.log.max_argv_bytes)
        self._reader.wants = wants(config, self.builder, config.rules)

    def scan(self) -> None:
        """Learn who lives already; after the ACK, before `start`."""
        self.table.scan(self._reader)

    def start(self, on_end: Callable[[], None]) -> None:
        """Start the thread; it calls `on_end` last, also where it ends unasked: nobody reads what it writes."""
        self._on_end = on_end
        self.running = True
        self._thread.start()

    def ask(self, action: Callable[[], None]) -> None:
        """Have something done on the worker's thread, soon."""
        self._asked.append(action)
        self._batches.wake()

    def stop(self) -> None:
        """Work off the queue, then end the thread. The listener must have stopped."""
        self._stopping = True
        self._batches.wake()
        self._thread.join()

    def limits(self) -> dict[str, int]:
        """What each limit on others' growth has cost so far."""
        return {
            "ARGV_CUT": self.table.argv_cut + self._reader.truncated_argv,
            "ANCESTORS_CUT": self.table.chains_cut,
            "HASHES_SKIPPED": self._records.hasher.too_big,
            "READINGS_UNUSED": self._unused_readings,
            "NAMES_REFUSED": self._users.refused,
            "FAILURES": self.ledger.failed,
        }

    def _run(self) -> None:
        try:
            while self._turn():
                self.progress += 1
        finally:
            self.running = False
            self._on_end()

    def _turn(self) -> bool:
        """Hear, take in, conclude, write; False when it is time to end."""
        ready = {fileno for fileno, _events in self._poller.poll(self._patience() * 1000)}
        arrived = self._batches.fileno() in ready
        if not arrived and not self._stopping and self._bell is not None and self._bell.fileno() in ready:
            self._hear(self._bell, 1)
            return True
        batches = self._batches.get() if arrived else []
        now = time.monotonic()
        if batches:
            self.take_in(batches)
            if is_settled(self._events, self._outcomes, self._last_first):
                self._conclude(self._last_first)
        elif self._events and now >= self._due:
            self.conclude()
        if now >= self._next_second:
            self._next_second = now + 1.0
            self._once_a_second()
        while self._asked:
            self._asked.pop(0)()
        self._held_seconds = (
            0.0 if self.writer.wait(0) else min(2 * self._held_seconds or HELD_SECONDS, HELD_MOST_SECONDS)
        )
        if not self._stopping:
            return not self.writer.broken
        if not self._batches.is_empty:
            return True
        self.conclude()
        self._report_loss()
        self.writer.flush()
        return False

    def _patience(self) -> float:
        """How long there is nothing to do but to wait for events."""
        if self._stopping:
            return 0.0
        patience = self._held_seconds or IDLE_SECONDS
        return min(patience, max(0.0, self._due - time.monotonic())) if self._events else patience

    def _hear(self, bell: Bell, most: int) -> None:
        """Read /proc for the EXECs that the bell brings."""
        for _ in range(most):
            event = bell.hear()
            if event is None:
                return
            if event[9] != self._own_pid:
                self._heard[event[9], event[7]] = hear(event, self._reader)
        while len(self._heard) > HEARD_LIMIT:
            # Their events were lost, or wait far behind.
            self._unused_readings += 1
            _close(self._heard.pop(next(iter(self._heard))))

    def _once_a_second(self) -> None:
        self._clock.refresh()
        self._report_loss()

    def take_in(self, batches: list[Batch]) -> None:
        """Decode and count, and read what the bell did not tell. On the worker's thread, or while there is none."""
        if self._bell is not None:
            # It rang for all EXECs that are in the batches: the socket that is bound last is served first.
            self._hear(self._bell, HEARD_LIMIT)
        events, malformed = wire.decode(b"".join([batch.datagrams for batch in batches]))
        self._last_first = len(self._events)
        self._due = time.monotonic() + SETTLE_SECONDS
        self._events += events
        outcomes = read_execs(
            self._events,
            self._last_first,
            self._heard,
            self._reader,
            is_behind=self._batches.waiting_bytes > 0,
        )
        if outcomes:
            read_ids(self._events, outcomes, self._reader, self.table)
            self._outcomes |= outcomes
        ledger, last = self.ledger, batches[-1]
        ledger.malformed += malformed
        ledger.odd = last.odd
        ledger.foreign = last.foreign
        ledger.see(events)
        self._note_loss(last, events)
        if events:
            self._last_event_ns = events[-1][7]

    def conclude(self) -> None:
        """Bring all that was taken in to its entries. On the worker's thread, or while there is none."""
        self._conclude(len(self._events))

    def _conclude(self, count: int) -> None:
        """The same for the first so many events; the others have a say about what was read for these."""
        events, outcomes = self._events, self._outcomes
        self._events, self._outcomes, self._last_first = events[count:], {}, 0
        if outcomes:
            settle(events, outcomes)
            self._outcomes = {n - count: outcome for n, outcome in outcomes.items() if n >= count}
        self._sent_by_execs = sent_by_execs(events)
        for n, event in enumerate(events[:count]):
            if self._bell is not None and not n % HEAR_EVERY:
                self._hear(self._bell, HEARD_LIMIT)
            self._handle_event(event, outcomes.get(n))

    def _handle_event(self, event: RawEvent, reading: Outcome | None) -> None:
        """The table, the rules, the entry, for one event. An error of ours costs this event, and says so."""
        try:
            record = self._records.make(event, reading)
            if record is None:
                self.ledger.unneeded += 1
                self.ledger.unknown += event[5] not in wire.KNOWN
            elif self._sent_by_execs and event in self._sent_by_execs and _keeps_real_id(record):
                # A setuid program's: the change is the new image's.
                self._credited.setdefault(event[9], []).append(record)
            else:
                self._decide(record)
        except Exception:
            # One event must not cost the others. Nothing is hidden: it is counted, and told with its event.
            self._tell_failure(event)
        finally:
            if reading is not None:
                _close(reading)
        if event[5] == wire.EXEC and self._credited:
            self._decide_credited(event)

    def _decide(self, record: Record) -> None:
        decision = self._rules.decide(record)
        if decision.action == "log":
            self.writer.write(self.builder.build(record, decision))
        else:
            self.ledger.dropped += 1

    def _decide_credited(self, event: RawEvent) -> None:
        """Changes of ids that waited for the image that they belong to, which this EXEC made."""
        for record in self._credited.pop(event[9], ()):
            try:
                self._records.renew(record)
                self._decide(record)
            except Exception:
                self._tell_failure(event)

    def _tell_failure(self, event: RawEvent) -> None:
        self.ledger.failed += 1
        if self.ledger.failed <= FAILURES_SHOWN:
            text = (
                f"internal error at event {wire.Event(*event)}, going on without it: {traceback.format_exc()}"
            )
            self.writer.write(self.builder.own("loss", text, WARNING, count=1, lost_where="worker"))

    def _note_loss(self, batch: Batch, events: list[RawEvent]) -> None:
        """Take the losses that a batch tells of into the account; the entry comes once a second at most."""
        ledger, loss = self.ledger, self._loss
        new_kernel = (batch.kernel_drops - ledger.lost_kernel) & 0xFFFFFFFF
        new_queue = batch.queue_lost - ledger.lost_queue
        if not new_kernel and not new_queue:
            return
        ledger.lost_kernel += new_kernel
        ledger.lost_queue += new_queue
        until_ns = events[-1][7] if events else self._clock.now()[0]
        self.table.lost(until_ns)
        loss.kernel += new_kernel
        loss.queue += new_queue
        loss.since_ns = loss.since_ns or self._last_event_ns or until_ns
        loss.until_ns = until_ns

    def _report_loss(self) -> None:
        """Write an entry on what was lost since the last one."""
        loss = self._loss
        for where, count, why in (
            ("kernel", loss.kernel, "the kernel's socket buffer was full"),
            ("queue", loss.queue, "the worker's queue was full"),
        ):
            if count:
                text = f"loss: {count} events, {why}; processes may be missing from the record"
                self._write_loss(text, where, count, loss.since_ns // 1000, loss.until_ns // 1000)
        self._loss = _Loss()
        unwritten = self.writer.take_loss()
        if unwritten is not None:
            # The writer knows when the entries' events were by the wall clock.
            offset_usec = self._clock.realtime_offset_ns // 1000
            self._write_loss(
                f"loss: {unwritten.entries} entries, they were not taken in time and the hold was full",
                "journal",
                unwritten.entries,
                unwritten.since_usec - offset_usec,
                unwritten.until_usec - offset_usec,
            )

    def _write_loss(self, text: str, where: str, count: int, since_usec: int, until_usec: int) -> None:
        self.writer.write(
            self.builder.own(
                "loss",
                text,
                WARNING,
                count=count,
                since_usec=since_usec,
                until_usec=until_usec,
                lost_where=where,
            )
        )


def _keeps_real_id(record: Record) -> bool:
    """Whether a uid or gid event leaves the real id as it was, as an exec does and setuid(2) by root does not."""
    old = None if record.before is None else record.before.creds
    new = record.process.creds
    if old is None or new is None:
        return False
    return old.uid == new.uid if record.event == "uid" else old.gid == new.gid


def _close(outcome: Outcome) -> None:
    if isinstance(outcome, Reading) and outcome.executable_fd is not None:
        os.close(outcome.executable_fd)


@dataclasses.dataclass(slots=True)
class _Loss:
    """Events lost and not yet told of, and between which kernel times."""

    kernel: int = 0
    queue: int = 0
    since_ns: int = 0
    until_ns: int = 0
