# SPDX-License-Identifier: MIT
"""What we could not see, and how that is told.

Every loss is noted when it is known, told once a second at most with how much, when and of which CPUs, and followed by
a resync. The drop counters say how many at once; between which events, and of which CPUs, is shown by the sequence
numbers of what comes after.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from procwatchd.journal.kinds import DEBUG, NOTICE, WARNING
from procwatchd.journal.message import duration, or_unknown
from procwatchd.journal.writer import Loss
from procwatchd.kernel.cpus import format_cpus
from procwatchd.kernel.heartbeat import Blindness
from procwatchd.kernel.marks import Marks
from procwatchd.kernel.queue import Batch
from procwatchd.kernel.sequence import Gap
from procwatchd.ledger import Ledger
from procwatchd.process.ends import Ends
from procwatchd.process.resync import Resync, Summary
from procwatchd.process.table import Table

# How long the numbers may take to show where a loss was.
LOCATE_SECONDS = 2.0
# Between two entries on other programs that speak to the kernel: each heartbeat of another daemon is one.
STRANGE_SECONDS = 60.0


class Own(Protocol):
    """Writes an entry of the daemon's own."""

    def __call__(self, kind: str, text: str, priority: int, **fields: object) -> None:
        """Its kind, its text, and its fields by their names in lower case."""


@dataclass(slots=True)
class _Lost:
    """Events or records lost and not yet told of, and between which kernel times."""

    kernel: int = 0
    uncounted: int = 0
    queue: int = 0
    in_hand: int = 0
    records: int = 0
    record_drops: int = 0
    execs: int = 0
    signals: int = 0
    since_ns: int = 0
    until_ns: int = 0
    records_since_ns: int = 0
    records_until_ns: int = 0
    recordings_since_ns: int = 0
    recordings_until_ns: int = 0
    noted_since_ns: int = 0
    noted_until_ns: int = 0
    cpus: set[int] = field(default_factory=set)
    tell_at: float = 0.0

    @property
    def is_any(self) -> bool:
        """Whether anything was lost."""
        events = self.kernel or self.uncounted or self.queue or self.in_hand
        return bool(events or self.records or self.execs or self.signals)

    def noted(self, since_ns: int, until_ns: int) -> None:
        """It was noted between these times; where it is not located, that is all there is to say."""
        self.noted_since_ns = self.noted_since_ns or since_ns
        self.noted_until_ns = until_ns

    def part_of(self, gap: Gap) -> Gap | None:
        """What of a gap is within what was noted of events."""
        since_ns, until_ns = max(gap.since_ns, self.noted_since_ns), min(gap.until_ns, self.noted_until_ns)
        return gap._replace(since_ns=since_ns, until_ns=until_ns) if since_ns < until_ns else None

    def span(self, since_ns: int, until_ns: int) -> None:
        """It was between these times, too."""
        self.since_ns = min(self.since_ns or since_ns, since_ns)
        self.until_ns = max(self.until_ns, until_ns)


class Losses:
    """Keeps account of losses and blindness. One thread uses it.

    `is_blind` says whether the kernel tells nothing now; `blindnesses` and `resyncs` are how many there were, `records`
    how many records of ended tasks had no room, `execs`, `signals` and `pending` how many recordings of these.
    `told` is how many events that had been received were told to be lost, in entries that are written, and
    `unwritten_told` how many that were given up as entries. `want_acks`
    asks for an ACK of each CPU, which shows where a loss was; it does not wait. `on_lost_signals` is called where the
    last signal to a process may be one that was lost. What is told is noted in `marks`.
    """

    def __init__(
        self,
        ledger: Ledger,
        table: Table,
        ends: Ends,
        resync: Resync,
        own: Own,
        want_acks: Callable[[], None],
        on_lost_signals: Callable[[], None],
        marks: Marks,
    ) -> None:
        self.told = 0
        self.unwritten_told = 0
        self.records = 0
        self.execs = 0
        self.signals = 0
        self.pending = 0
        self.is_blind = False
        self.blindnesses = 0
        self.resyncs = 0
        self._unreadable = 0
        self._ledger = ledger
        self._table = table
        self._ends = ends
        self._resync = resync
        self._own = own
        self._want_acks = want_acks
        self._on_lost_signals = on_lost_signals
        self._marks = marks
        self._pending_told = 0
        # Written maybe, or held by the writer.
        self._untold: list[_Lost] = []
        self._unwritten = 0
        self._in_hand_usec = (0, 0)
        self._lost = _Lost()
        self._acks_wanted = False
        self._last_batch_ns = time.monotonic_ns()
        self._strange_acks = 0
        self._next_strange = 0.0

    def note_in_hand(self) -> None:
        """Whoever had the socket before us was killed: what that one had in hand is lost."""
        words = self._marks.words
        self._ledger.lost_in_hand = self._lost.in_hand = self._marks.in_hand
        self._in_hand_usec = (words[Marks.SETTLED_NS] // 1000, words[Marks.RECEIVED_NS] // 1000)

    def note(self, batch: Batch, gaps: list[Gap]) -> None:
        """Take what a batch tells of losses into the account."""
        ledger, lost = self._ledger, self._lost
        now_ns = batch.received_ns
        new_kernel = (batch.kernel_drops - ledger.lost_kernel) & 0xFFFFFFFF
        new_queue = batch.queue_lost - ledger.lost_queue
        if new_kernel or new_queue:
            ledger.lost_kernel += new_kernel
            ledger.lost_queue += new_queue
            lost.kernel += new_kernel
            lost.queue += new_queue
            lost.tell_at = lost.tell_at or time.monotonic() + LOCATE_SECONDS
            lost.noted(self._last_batch_ns, now_ns)
            self._table.lost(now_ns)
            self._resync.request(self._last_batch_ns, now_ns)
            if not self._acks_wanted:
                self._acks_wanted = True
                self._want_acks()
        self._note_gaps(gaps)
        new_records = (batch.records_lost - self.records) & 0xFFFFFFFF
        if new_records:
            lost.records += new_records
            lost.record_drops += new_records
            lost.records_since_ns = lost.records_since_ns or self._last_batch_ns
            lost.records_until_ns = now_ns
            self.records += new_records
            self._ends.lost(now_ns)
            self._look_for_ends(now_ns)
        self._note_recordings(batch)
        self._last_batch_ns = now_ns

    def _note_gaps(self, gaps: list[Gap]) -> None:
        """Take in what is missing by the numbers: lost, or maybe rejected by the kernel's filter."""
        ledger, lost = self._ledger, self._lost
        uncounted = ledger.explain(gaps)
        concerned = [gap for gap in gaps if not ledger.may_be_filtered(gap)]
        # Of the others, those amid which there was a loss, as far as they are.
        concerned += filter(None, (lost.part_of(gap) for gap in gaps if ledger.may_be_filtered(gap)))
        if not concerned:
            return
        for gap in concerned:
            lost.cpus.add(gap.cpu)
            lost.span(gap.since_ns, gap.until_ns)
        # What no counter has: the kernel had no memory for it.
        lost.uncounted += uncounted
        self._table.lost(max(gap.until_ns for gap in concerned))
        if uncounted or not (lost.kernel or lost.queue):
            self._resync.request(lost.since_ns, lost.until_ns)
        else:
            # What a counter has was noted before, and a resync asked for.
            self._resync.widen(lost.since_ns)

    def _look_for_ends(self, until_ns: int) -> None:
        """Where the records alone tell the ends of some, one that is lost would leave a process in the table."""
        if not self._ends.follows_threads:
            self._resync.request(self._last_batch_ns, until_ns)

    def _note_recordings(self, batch: Batch) -> None:
        new_execs, new_signals = batch.execs_lost - self.execs, batch.signals_lost - self.signals
        if new_signals or batch.pending_lost != self.pending:
            # That of blocked ones is no entry of its own: anybody could have as many as they like.
            self.pending = batch.pending_lost
            self._on_lost_signals()
        if not new_execs and not new_signals:
            return
        lost = self._lost
        self.execs += new_execs
        self.signals += new_signals
        lost.execs += new_execs
        lost.signals += new_signals
        lost.recordings_since_ns = lost.recordings_since_ns or self._last_batch_ns
        lost.recordings_until_ns = batch.received_ns

    def note_unreadable(self, count: int) -> None:
        """So many records were not as they should be."""
        if count:
            self._lost.records += count
            self._lost.records_since_ns = self._lost.records_since_ns or self._last_batch_ns
            self._lost.records_until_ns = self._last_batch_ns
            self._unreadable += count
            self._look_for_ends(self._last_batch_ns)

    @property
    def is_any_untold(self) -> bool:
        """Whether there is something to be told, sooner or later."""
        return self._lost.is_any or self._strange_acks > 0

    @property
    def records_lost(self) -> int:
        """How many records of ended tasks are missing."""
        return self.records + self._unreadable

    def note_strange_ack(self) -> None:
        """The kernel answered somebody else."""
        self._strange_acks += 1

    def tell(self, unwritten: Loss | None, realtime_offset_ns: int, *, at_once: bool = False) -> None:
        """Write entries on what was lost since the last time; `unwritten` is what the writer gave up."""
        lost = self._lost
        if not self._ledger.unlocated or time.monotonic() >= lost.tell_at or at_once:
            self._tell_lost(lost)
            self._lost = _Lost()
            self._acks_wanted = False
        if unwritten is not None:
            self._unwritten += unwritten.events
            # The writer knows when the entries' events were by the wall clock.
            offset_usec = realtime_offset_ns // 1000
            self._write(
                f"{unwritten.entries} entries on {unwritten.events} events, they were not taken in time and the hold "
                "was full",
                "journal",
                max(unwritten.entries, unwritten.events),
                unwritten.since_usec - offset_usec,
                unwritten.until_usec - offset_usec,
            )
        if self._strange_acks and (at_once or time.monotonic() >= self._next_strange):
            count, self._strange_acks = self._strange_acks, 0
            self._next_strange = time.monotonic() + STRANGE_SECONDS
            text = f"listener: other programs spoke to the kernel about process events, requests: {count}"
            self._own("listener", text, DEBUG, count=count)

    def _tell_lost(self, lost: _Lost) -> None:
        since_usec = (lost.since_ns or lost.noted_since_ns) // 1000
        until_usec = (lost.until_ns or lost.noted_until_ns) // 1000
        cpus = format_cpus(lost.cpus) or None
        where = f" of CPU {cpus}" if cpus else ""
        if lost.in_hand:
            text = f"{lost.in_hand} events that procwatchd had in hand as it ended, and could not write"
            self._write(text, "restart", lost.in_hand, *self._in_hand_usec)
        for name, count, why in (
            ("kernel", lost.kernel, "the kernel's socket buffer was full"),
            ("kernel", lost.uncounted, "the kernel had no memory for them"),
            ("queue", lost.queue, "the worker's queue was full"),
        ):
            if count:
                span = duration(1000 * (until_usec - since_usec))
                text = f"{count} events{where} within {span}, {why}; a resync follows"
                self._write(text, name, count, since_usec, until_usec, cpus)
        if lost.records:
            text = f"{lost.records} records of ended tasks; their exits say less"
            span_usec = (lost.records_since_ns // 1000, lost.records_until_ns // 1000)
            self._write(text, "accounting", lost.records, *span_usec)
        recordings = lost.execs + lost.signals
        if recordings:
            text = f"{recordings} recordings of execs or signals; arguments or senders may be missing"
            span_usec = (lost.recordings_since_ns // 1000, lost.recordings_until_ns // 1000)
            self._write(text, "recorder", recordings, *span_usec)
        if lost.is_any:
            self._untold.append(lost)

    def mark_told(self) -> None:
        """All that was told so far is written: whoever comes after us need not tell it again."""
        words = self._marks.words
        for lost in self._untold:
            self.told += lost.queue + lost.in_hand
            words[Marks.DROPS] += lost.kernel
            words[Marks.RECORDS_LOST] += lost.record_drops
            words[Marks.EXECS_LOST] += lost.execs
            words[Marks.SIGNALS_LOST] += lost.signals
        self._untold.clear()
        self.unwritten_told += self._unwritten
        self._unwritten = 0
        words[Marks.PENDING_LOST] += self.pending - self._pending_told
        self._pending_told = self.pending

    def _write(
        self, text: str, where: str, count: int, since_usec: int, until_usec: int, cpus: str | None = None
    ) -> None:
        self._own(
            "loss",
            f"loss: {text}",
            WARNING,
            count=count,
            since_usec=since_usec,
            until_usec=until_usec,
            lost_where=where,
            cpus=cpus,
        )

    def tell_blindness(self, blindness: Blindness, missed_forks: int | None) -> None:
        """Write an entry on a blindness that began, or ended; how many forks were missed by its end, if known."""
        since_usec = blindness.since_ns // 1000
        if blindness.until_ns is None:
            self.is_blind = True
            self.blindnesses += 1
            span = duration(time.monotonic_ns() - blindness.since_ns)
            text = (
                f"blind: the kernel may have told of no events for {span}, another program has broken its count of "
                "listeners; trying to be heard again"
            )
            self._own("blind", text, WARNING, since_usec=since_usec)
            return
        # One that nobody noticed begins and ends with one entry.
        self.blindnesses += not self.is_blind
        self.is_blind = False
        span = duration(blindness.until_ns - blindness.since_ns)
        self._own(
            "blind",
            f"blind: it is over; forks that were not told within {span}: {or_unknown(missed_forks)}; a resync follows",
            WARNING,
            count=missed_forks,
            since_usec=since_usec,
            until_usec=blindness.until_ns // 1000,
        )
        self._table.lost(blindness.until_ns)
        self._resync.request(blindness.since_ns, blindness.until_ns)

    def tell_resync(self, summary: Summary) -> None:
        """Write an entry on what a resync found."""
        self.resyncs += 1
        text = (
            f"resync: the table is right again; processes that began unseen: {summary.appeared}, ended: "
            f"{summary.vanished}, became another program: {summary.execed}"
        )
        count = summary.appeared + summary.vanished + summary.execed
        self._own(
            "resync",
            text,
            NOTICE if not count else WARNING,
            count=count,
            appeared=summary.appeared,
            vanished=summary.vanished,
            execed=summary.execed,
            since_usec=summary.since_ns // 1000,
            until_usec=summary.until_ns // 1000,
        )
