# SPDX-License-Identifier: MIT
"""The worker: the way of an event from the queue to its entry.

Two phases. At once, when the bell rings: read /proc for the EXEC, which races against the process's end; where execs
are recorded there is no such race, and no bell. Then, event by event in the order of arrival: the table, the rules, the
entry. A batch comes to that when the next one is there, or none was for a moment, where the next events can say what
its readings were worth; one waking serves many events. Every event ends in one place of the ledger.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import threading
import time
import traceback
from collections.abc import Callable
from typing import BinaryIO

from procwatchd.config import Config
from procwatchd.errors import KernelError
from procwatchd.forkwatch import ForkWatch, KernelForks
from procwatchd.journal.build import EntryBuilder
from procwatchd.journal.kinds import INFO, WARNING
from procwatchd.journal.writer import Writer
from procwatchd.kernel import taskstats, wire
from procwatchd.kernel.accounting import Accounting
from procwatchd.kernel.bell import Bell
from procwatchd.kernel.clock import Clock
from procwatchd.kernel.connector import Connector, find_ack, may_lower
from procwatchd.kernel.filter import Needs
from procwatchd.kernel.heartbeat import Blindness
from procwatchd.kernel.listener import GATHER_SECONDS
from procwatchd.kernel.marks import Marks
from procwatchd.kernel.priority import Budget
from procwatchd.kernel.queue import Batch, BatchQueue
from procwatchd.kernel.wire import RawEvent
from procwatchd.ledger import Ledger
from procwatchd.losses import Losses
from procwatchd.process.ends import Ends
from procwatchd.process.enrich import Outcome, sent_by_execs
from procwatchd.process.fields import FIELDS
from procwatchd.process.hand import Hand
from procwatchd.process.kills import Kills
from procwatchd.process.model import Record
from procwatchd.process.procfs import Reader, Wants
from procwatchd.process.recorded import Recorded
from procwatchd.process.records import RecordMaker
from procwatchd.process.resync import Resync
from procwatchd.process.table import Table
from procwatchd.process.users import Users
from procwatchd.process.waiting import WAITING_NS
from procwatchd.rules.detection import DETECTIONS_LIMIT
from procwatchd.rules.limit import SHARE_NEEDS
from procwatchd.rules.redact import KEY_BYTES, Redactor
from procwatchd.rules.ruleset import RuleSet
from procwatchd.silence import Silence
from procwatchd.state import pack, unpack
from procwatchd.tape import Tape

IDLE_SECONDS = 10.0

# While events are brought to their entries, the bell is heard after so many.
HEAR_EVERY = 16

# How soon a writer that could not write all tries again; each time later, while it cannot.
HELD_SECONDS = 0.002
HELD_MOST_SECONDS = 0.1
# Between two looks whether a resync can go on.
RESYNC_SECONDS = 0.05
# How long an ACK is waited for by what is to be done after it: it may be lost.
ACK_SECONDS = 5.0
FAILURES_SHOWN = 100
# How long an event may be on its way to us.
LATE_NS = 50_000_000
# What a recording has not, beside what is LOST.
_GAPS = ("FORKS_MISSED", "RECORDER_LOST", "ACCOUNTING_LOST")


def wants(config: Config, builder: EntryBuilder, rules: RuleSet, also: frozenset[str] = frozenset()) -> Wants:
    """What of /proc the configuration has a use for, or who asks for the fields in `also`."""
    names = builder.wanted | rules.needs | config.sigma.needs | also
    if config.log.limit:
        names |= SHARE_NEEDS
    place = {"CGROUP", "UNIT", "USER_UNIT", "SLICE", "SESSION", "CONTAINER_ID"}
    return Wants(
        cwd="CWD" in names,
        tty="TTY" in names,
        loginuid="LOGINUID" in names,
        audit_session="AUDIT_SESSION" in names,
        cgroup=bool(names & place),
        namespaces=bool(names & {"MOUNT_NAMESPACE", "USER_NAMESPACE", "EXE"}),
        checksum=config.capture.hash != "off",
        environment=tuple(name.encode() for name in config.capture.environment),
    )


def needs(
    config: Config,
    builder: EntryBuilder,
    rules: RuleSet,
    *,
    has_accounting: bool,
    also: frozenset[str] = frozenset(),
) -> Needs:
    """What of the kernel's events and records the configuration, the table, or who asks for `also` has a use for."""
    names, events = builder.wanted | rules.needs | config.sigma.needs | also, config.capture.events
    return Needs(
        # Without records the EXITs of all tasks are how an end is known.
        threads=config.capture.threads or not has_accounting,
        ptrace="ptrace" in events,
        coredump="coredump" in events,
        # What is read and written the kernel does not sum up.
        tasks=config.capture.threads or bool(names & {"IO_READ_BYTES", "IO_WRITE_BYTES"}),
    )


class Worker:
    """One thread that takes batches and writes entries.

    `running` says whether its thread is; `progress` grows soon after a `poke` while that is not stuck. Other threads
    talk to it by `ask`: what they ask is done on the worker's thread, between two events.
    """

    def __init__(
        self,
        config: Config,
        batches: BatchQueue,
        writer: Writer,
        clock: Clock,
        users: Users,
        *,
        open_bell: Callable[[], Bell] | None = None,
        is_recording: bool = False,
        is_recorder_kept: bool = False,
        connector: Connector | None = None,
        accounting: Accounting | None = None,
        marks: Marks | None = None,
        state: bytes | None = None,
        process_forks: Callable[[], int | None] = lambda: None,
        want_acks: Callable[[], None] = lambda: None,
        on_danger: Callable[[], None] = lambda: None,
        redaction_key: bytes | None = None,
        tape: Tape | None = None,
        proc: str = "/proc",
    ) -> None:
        self.running = False
        self.progress = 0
        self.ledger = Ledger()
        self.table = Table(clock, users)
        self.writer = writer
        self._connector = connector
        self._accounting = accounting
        self._process_forks = process_forks
        self._want_acks = want_acks
        self._on_danger = on_danger
        self._redaction_key = redaction_key or os.urandom(KEY_BYTES)
        self._tape = tape
        self._batches = batches
        self._open_bell = open_bell
        self._is_recording = is_recording
        self._is_recorder_kept = is_recorder_kept
        self._poller = select.poll()
        self._poller.register(batches, select.POLLIN)
        self._clock = clock
        self._users = users
        self._reader = Reader(Wants(), proc=proc)
        own_pid = os.getpid()
        self._marks = marks or Marks()
        self._ends = Ends(self.table, self._reader.stat)
        self._kills = Kills(self.table)
        self._records = RecordMaker(self.table, self._ends, self._kills, own_pid)
        self._recorded = Recorded(self._reader)
        self._hand = Hand(self._reader, self._recorded if is_recording else None, own_pid)
        self.resync = Resync(self.table, self._ends, self._reader, connector.ask if connector else lambda: 0)
        self.fork_watch = ForkWatch(self._reader.forks)
        self._silence = Silence(self.ledger, writer.write, lambda: self.builder, self._tell_failure)
        self.losses = Losses(
            self.ledger,
            self.table,
            self._ends,
            self.resync,
            self.own,
            want_acks,
            self._kills.lost,
            self._marks,
        )
        # What is to be done, after which ACK (None: none) or at what time at the latest.
        self._asked: list[tuple[Callable[[], None], int | None, float]] = []
        self._acknowledged: int | None = None
        self._forks_acknowledged = 0
        self._failures = self._detections_cut = self._behind_ns = self._concluded_ns = 0
        # By the rule, None where none did, and the action.
        self._decided: dict[tuple[str | None, str], int] = {}
        self._needed = Needs()
        # The thread's own, once it runs: whoever else does its work goes on as they are.
        self._budget: Budget | None = None
        self._stopping = False
        self._next_second = self._held_seconds = 0.0
        # Of the events at hand, those that an exec may have sent; and such changes until their image is there.
        self._sent_by_execs: set[RawEvent] = set()
        self._credited: dict[int, list[Record]] = {}
        self._on_end: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._run, name="worker", daemon=True)
        # Of what was settled by whoever had the marks before us; and since then by us.
        self._settled_before = self._marks.words[Marks.SETTLED]
        self._handled = self._unsettled = 0
        # When the last was settled of whoever had the socket before us, 0 where nobody had it.
        self._since_ns = 0
        self.is_restored = self._take_over(state)
        self.configure(config)

    def configure(self, config: Config) -> None:
        """Work by this configuration from now on. On the worker's thread, or before it runs."""
        redactor = Redactor(
            self._redaction_key, is_builtin=config.redact.is_builtin, patterns=config.redact.patterns
        )
        builder = EntryBuilder(self._clock, config.log.fields, config.log.max_argv_bytes, redactor)
        also = frozenset[str]() if self._tape is None else frozenset(FIELDS)
        wanted = wants(config, builder, config.rules, also)
        has_accounting = self._accounting is not None
        needed = needs(config, builder, config.rules, has_accounting=has_accounting, also=also)
        # First what the kernel may refuse: then nothing is changed.
        self._hang_bell(wanted)
        self._filter(needed)
        self._silence.configure(config.log.limit)
        self.config = config
        self._rules = config.rules
        self._sigma = config.sigma
        self._records.configure(config.capture.events, threads=config.capture.threads, hashes=wanted.checksum)
        self.builder = builder
        self._reader.wants = wanted
        self._ends.configure(
            follows_threads=needed.threads, has_all_tasks=needed.tasks, now_ns=time.monotonic_ns()
        )
        self.fork_watch.compare_with(self._reader.forks if needed.threads else self._process_forks)
        self._tag_living()

    def _tag_living(self) -> None:
        """Have those who live tagged as if they had just been started under these rules."""
        inherited, now_ns = self._rules.inherited, time.monotonic_ns()
        of_lives: dict[tuple[int, int | None], tuple[str, ...]] = {}
        for process in self.table.all():
            of_parent = () if process.parent is None else process.parent.tags
            tags = dict.fromkeys((*process.tags, *of_lives.get(process.birth, ()), *of_parent))
            process.tags = tuple(tag for tag in tags if tag in inherited)
            if inherited:
                record = Record("exec", process, now_ns, "table", process.image.identity)
                process.add_tags(self._rules.decide(record).inherited)
                of_lives[process.birth] = process.tags

    def _filter(self, needed: Needs) -> None:
        """Have the kernel reject what nobody needs, or go on as it did. Raises KernelError."""
        try:
            self._attach(needed)
        except KernelError:
            with contextlib.suppress(KernelError):
                self._attach(self._needed)
            raise
        self._needed = needed
        if self._connector is not None:
            self.ledger.set_filter(is_on=not needed.is_every_event, now_ns=time.monotonic_ns())

    def _attach(self, needed: Needs) -> None:
        # An EXIT that comes has its record: the records are the first that come, and the last that do not.
        if self._accounting is not None and needed.tasks:
            self._accounting.narrow(needed)
        if self._connector is not None:
            self._connector.narrow(needed)
        if self._accounting is not None:
            self._accounting.narrow(needed)

    def _hang_bell(self, wanted: Wants) -> None:
        """Have a bell where something must be read from /proc in time, and none where all is recorded."""
        is_needed = not self._is_recording or wanted.checksum or bool(wanted.environment)
        hand = self._hand
        if is_needed and hand.bell is None and self._open_bell is not None:
            hand.bell = self._open_bell()
            self._poller.register(hand.bell, select.POLLIN)
        elif not is_needed and hand.bell is not None:
            self._poller.unregister(hand.bell)
            hand.bell.close()
            hand.bell = None

    def _keep_budget(self) -> None:
        if self._budget is not None:
            self._budget.keep(is_racing=self._hand.bell is not None)

    def close(self) -> None:
        """Close what it opened; after the end of the thread."""
        self._reader.hasher.close()
        if self._hand.bell is not None:
            self._hand.bell.close()
        if self._tape is not None:
            self._tape.close()

    def _kept(self) -> dict[str, object]:
        """What the next one goes on with, if nothing is lost between."""
        return {
            "table": self.table,
            "ends": self._ends,
            "records": self._ends.records,
            "others": self._ends.records.others,
            "kills": self._kills,
            "recorded": self._recorded,
            "traced": self._records,
            "sequences": self.ledger.sequences,
            "resync": self.resync,
            "forks": self.fork_watch,
        }

    def leave(self, file: BinaryIO) -> None:
        """Write what another one may go on with, who gets all that comes after; after the end of the thread."""
        if self.resync.is_running:
            self.resync.give_up()
        self.fork_watch.leave(self.ledger.forks, of_processes=not self._needed.threads)
        pack(file, self._kept(), self.table.all(), self._users, self._marks.words[Marks.RECEIVED])

    def _take_over(self, state: bytes | None) -> bool:
        """Go on from where another one stopped; whether it has left what it knew then."""
        if self._connector is None or not self._connector.is_kept:
            return False
        self.ledger.is_taken_over()
        self.losses.note_in_hand()
        words, now_ns = self._marks.words, time.monotonic_ns()
        self._since_ns = words[Marks.SETTLED_NS]
        if state is None or not unpack(state, self._kept(), self._users, words[Marks.RECEIVED]):
            # Of who was in hand, or had ended but for some threads, the records may still come.
            self.resync.request(self._since_ns, now_ns)
            return False
        if not self._is_recorder_kept:
            self._kills.forget_all()
            self._recorded.lost(now_ns)
        if self._accounting is None or not self._accounting.is_kept:
            self._ends.lost(now_ns)
            self.resync.request(self._since_ns, now_ns)
        return True

    def begin(self) -> None:
        """Count the forks from now on; just before the subscription."""
        of_processes = not self._needed.threads
        self.fork_watch.begin(of_processes=of_processes, may_go_on=self._is_recorder_kept or not of_processes)

    def scan(self) -> None:
        """Learn who lives already; while the listener receives, before `start`."""
        self._ends.begun_ns = self._since_ns or time.monotonic_ns()
        self.table.scan(self._reader)
        batches = self._sent_by_now()
        events, _malformed = wire.decode(b"".join([batch.datagrams for batch in batches]))
        self.table.rewind(events)
        self._tag_living()
        self._ends.find_leaderless()
        if batches:
            self.take_in(batches)

    def _sent_by_now(self) -> list[Batch]:
        """All that the kernel has sent by now."""
        batches: list[Batch] = []
        if self._connector is None:
            return batches
        with contextlib.suppress(OSError):
            asked = self._connector.ask()
            deadline = time.monotonic() + ACK_SECONDS
            while time.monotonic() < deadline:
                some = self._batches.get()
                batches += some
                if any(find_ack(batch.datagrams, asked) is not None for batch in some):
                    break
                time.sleep(GATHER_SECONDS)
        return batches

    def start(self, on_end: Callable[[], None]) -> None:
        """Start the thread; it calls `on_end` last, also where it ends unasked: nobody reads what it writes."""
        self._on_end = on_end
        if self._tape is not None:
            for process in self.table.living():
                self._tape.write(Record("exec", process, 0, "table", process.image.identity), is_living=True)
        self.running = True
        self._thread.start()

    def ask(self, action: Callable[[], None], *, after: int | None = None) -> None:
        """Have something done on the worker's thread, soon: once the ACK `after` is worked off, if one is given.

        An ACK can be lost: it is waited for a few seconds.
        """
        self._asked.append((action, after, time.monotonic() + ACK_SECONDS))
        self._batches.wake()

    def poke(self) -> None:
        """Have the thread show that it is not stuck. From any thread."""
        self._batches.wake()

    def own(self, kind: str, text: str, priority: int = INFO, **fields: object) -> None:
        """Write an entry of the daemon's own. On the worker's thread, or while there is none."""
        self.writer.write(self.builder.own(kind, text, priority, **fields))

    def tell_blindness(self, blindness: Blindness, kernel_forks: KernelForks | None = None) -> None:
        """The kernel tells nothing any more; or again, with what it had counted of forks before an ACK just now."""
        missed = None
        number = self.fork_watch.number(kernel_forks)
        if number is not None:
            missed = self.fork_watch.untold(number - self._forks_acknowledged)
        self.losses.tell_blindness(blindness, missed)

    def check_forks(self, kernel_forks: KernelForks | None, ack: int | None) -> None:
        """Compare the FORKs before an ACK with what the kernel had counted by then."""
        # Until a resync is done what is missing is known, and looked for. A lost ACK proves nothing.
        number = self.fork_watch.number(kernel_forks)
        if number is None or ack is None or self.resync.is_due or not self._is_acknowledged(ack):
            return
        found = self.fork_watch.check(number - self._forks_acknowledged)
        if found is not None:
            self.losses.tell_blindness(*found)

    def _is_acknowledged(self, ack: int) -> bool:
        return self._acknowledged is not None and (self._acknowledged - ack) % (1 << 32) < 1 << 31

    def stop(self) -> None:
        """Work off the queue, then end the thread. The listener must have stopped."""
        self._stopping = True
        self._batches.wake()
        self._thread.join()

    def terms(self) -> dict[str, int]:
        """The ledger as it is. On the worker's thread, or while there is none."""
        credited = sum(map(len, self._credited.values()))
        held = len(self._hand) + credited + self._silence.events + self.writer.held_events
        return self.ledger.terms(
            logged=self.writer.written_events - self.ledger.summarised,
            unwritten=self.writer.unwritten_events,
            pending=held,
            waiting=self._ends.waiting,
        )

    def more_terms(self, kernel_forks: KernelForks | None) -> dict[str, int]:
        """What stands beside the ledger: other counts, other losses, and what each limit on others' growth has cost.

        FORKS are those before the last ACK; `kernel_forks` is what the kernel had counted by then.
        """
        terms = {
            "PROCESSES": len(self.table),
            "QUEUED": self._batches.waiting_events,
            "BEHIND_USEC": self._behind_ns // 1000,
            "UNLOCATED": self.ledger.unlocated,
            "FORKS": self._forks_acknowledged,
            "FORKS_MISSED": self.fork_watch.told,
            "FORKS_KERNEL": self.fork_watch.comparable(kernel_forks),
            "BLIND": int(self.losses.is_blind),
            "BLINDNESSES": self.losses.blindnesses,
            "RESYNCS": self.losses.resyncs,
            "ACCOUNTING_LOST": self.losses.records_lost,
            "ARGV_CUT": self.table.argv_cut + self._reader.truncated_argv,
            "ANCESTORS_CUT": self.table.chains_cut,
            "HASHES_SKIPPED": self._reader.hasher.skipped,
            "READINGS_UNUSED": self._hand.unused,
            "RECORDER_LOST": self._recorded.missing + self.losses.signals,
            "RECORDINGS_UNUSED": self._recorded.unused,
            "SIGNALS_FORGOTTEN": self._kills.forgotten + self.losses.pending,
            "RECORDS_UNUSED": self._ends.records.given_up,
            "NAMES_REFUSED": self._users.refused,
            "DETECTIONS_CUT": self._detections_cut,
            "UNRECORDED": None if self._tape is None else self._tape.unwritten,
            "FAILURES": self._failures,
            **self._silence.terms(),
        }
        return {name: value for name, value in terms.items() if value is not None}

    def decided(self) -> dict[tuple[str | None, str], int]:
        """How many events each rule decided, by its name and what became of them; None for those that none did."""
        return self._decided.copy()

    def _run(self) -> None:
        self._budget = Budget()
        try:
            while self._turn():
                self._keep_budget()
                self.progress += 1
        finally:
            self.running = False
            self._on_end()

    def _turn(self) -> bool:
        """Hear, take in, conclude, write; False when it is time to end."""
        ready = {fileno for fileno, _events in self._poller.poll(self._patience() * 1000)}
        arrived = self._batches.fileno() in ready
        self._hand.look_again()
        bell = self._hand.bell
        if not arrived and not self._stopping and bell is not None and bell.fileno() in ready:
            self._hand.hear(1)
            return True
        batches = self._batches.get() if arrived else []
        if batches:
            self.take_in(batches)
        ripe = self._hand.ripe()
        if ripe:
            self._conclude(ripe)
        elif not len(self._hand) and self._batches.is_empty:
            # Whatever was sent before came, or will not.
            self._ripen(time.monotonic_ns() - LATE_NS)
        now = time.monotonic()
        if now >= self._next_second:
            self._next_second = now + 1.0
            self._try(self._once_a_second)
        self._do_asked(now)
        if not self._try(self._step_resync):
            self.resync.give_up()
        self._write_held()
        self.settle()
        if not self._stopping:
            return not self.writer.broken
        if not self._batches.is_empty:
            return True
        self.conclude()
        self._ends.stop_waiting()
        self._do_asked(now + ACK_SECONDS)
        self._silence.tell()
        self.losses.tell(self.writer.take_loss(), self._clock.realtime_offset_ns, at_once=True)
        self.writer.flush()
        self.settle()
        if self._tape is not None:
            self._tape.end(lost=self.terms()["LOST"], gaps=self._gaps())
        return False

    def _gaps(self) -> int:
        """How much else than LOST rules did not see, or not as it was."""
        terms = self.more_terms(None)
        return self.ledger.failed + sum(map(terms.__getitem__, _GAPS))

    def _write_held(self) -> None:
        """Write of what is held as much as is taken; the longer nothing is, the later it is tried again."""
        before = self.writer.held_events
        if self.writer.wait(0):
            self._held_seconds = 0.0
            self.losses.mark_told()
        elif self.writer.held_events < before:
            self._held_seconds = HELD_SECONDS
        else:
            self._held_seconds = min(2 * self._held_seconds or HELD_SECONDS, HELD_MOST_SECONDS)

    def _patience(self) -> float:
        """How long there is nothing to do but to wait for events."""
        if self._stopping:
            return 0.0
        is_something_due = self.losses.is_any_untold or self.resync.is_due or self._silence.is_any_untold
        patience = self._held_seconds or (1.0 if is_something_due else IDLE_SECONDS)
        if self.resync.is_running:
            patience = min(patience, RESYNC_SECONDS if self.resync.is_waiting else 0.0)
        if self._asked:
            patience = min(patience, max(0.0, min(self._asked, key=_deadline)[2] - time.monotonic()))
        if self._ends.is_due:
            patience = min(patience, LATE_NS / 1e9)
        return self._hand.patience(patience)

    def _try(self, action: Callable[[], None]) -> bool:
        """Do something beside the events. An error of ours must not cost these, and is told."""
        try:
            action()
        except Exception:
            self._tell_failure("beside the events")
            return False
        return True

    def _once_a_second(self) -> None:
        self._clock.refresh()
        if self._tape is not None:
            self._tape.flush()
        if not self.resync.is_due:
            self._ends.records.give_up(time.monotonic_ns() - WAITING_NS)
        self._silence.tell_due(time.monotonic_ns())
        self.losses.tell(self.writer.take_loss(), self._clock.realtime_offset_ns)

    def _do_asked(self, now: float) -> None:
        """Do what was asked for, as far as its ACK is there or was waited for."""
        for _ in range(len(self._asked)):
            action, after, deadline = self._asked.pop(0)
            if after is None or now >= deadline or self._is_acknowledged(after):
                self._try(action)
            else:
                self._asked.append((action, after, deadline))

    def _step_resync(self) -> None:
        found = self.resync.step(self._concluded_ns)
        if found is None:
            self.losses.tell(self.writer.take_loss(), self._clock.realtime_offset_ns, at_once=True)
            self.losses.tell_resync(self.resync.summary)
            self.fork_watch.excuse()
            self._want_acks()
        elif found:
            # First what was lost, then who was found.
            self.losses.tell(self.writer.take_loss(), self._clock.realtime_offset_ns, at_once=True)
        for one in found or ():
            record = self._records.found(one, self.resync.begun_ns)
            if record is not None:
                self._decide(record)

    def take_in(self, batches: list[Batch]) -> None:
        """Decode and count, and read what the bell did not tell. On the worker's thread, or while there is none."""
        self._clock.refresh()
        events, malformed = wire.decode(b"".join([batch.datagrams for batch in batches]))
        recordings = [item for batch in batches for item in batch.recordings.execs]
        ledger, last = self.ledger, batches[-1]
        if last.execs_lost != self.losses.execs:
            self._recorded.lost(last.received_ns)
        self._hand.take_in(events, recordings, is_behind=self._batches.waiting_bytes > 0)
        for batch in batches:
            self._kills.add(batch.recordings.signals)
        ledger.malformed += malformed
        ledger.odd = last.odd
        ledger.foreign = last.foreign
        self.losses.note(last, ledger.see(events))
        for batch in batches:
            if batch.records:
                records, malformed = taskstats.decode(batch.records)
                self._ends.records.add(records, batch.received_ns)
                self.losses.note_unreadable(malformed)

    def conclude(self) -> None:
        """Bring all that was taken in to its entries. On the worker's thread, or while there is none."""
        self._conclude(len(self._hand))
        self._ripen(math.inf)

    def _conclude(self, count: int) -> None:
        """The same for the first so many events; the others have a say about what was read for these."""
        events, outcomes = self._hand.play(count)
        self._sent_by_execs = sent_by_execs(events)
        self._records.look_ahead(events)
        for n, event in enumerate(events[:count]):
            if not n % HEAR_EVERY:
                self._hand.hear()
                self._keep_budget()
            self._kills.come_to(event[7])
            self._handle_event(event, outcomes.get(n))
        if count:
            self._concluded_ns = events[count - 1][7]
            self._behind_ns = max(0, time.monotonic_ns() - events[0][7])
            self._ripen(self._concluded_ns)

    def _ripen(self, until_ns: float) -> None:
        """All events until then are worked off: tell the ends that waited for that."""
        self._ends.ripen(until_ns)
        self._decide_late()

    def _decide_late(self) -> None:
        """Ends that an EXIT before stands for: that was no need of anyone's until now."""
        late = self._ends.late
        while late:
            end, record = late.pop(0), None
            try:
                record = self._records.ended_late(end)
                if record is not None:
                    self._decide(record)
            except Exception:
                self.ledger.failed += record is not None and end.has_exit
                self._tell_failure(f"at the end of process {end.process.pid}, going on without it")
            self.ledger.unneeded -= record is not None and end.has_exit

    def _handle_event(self, event: RawEvent, reading: Outcome | None) -> None:
        """The table, the rules, the entry, for one event. An error of ours costs this event, and says so."""
        if event[5] == wire.FORK:
            self.ledger.forks += 1
        try:
            record = self._records.make(event, reading)
            if self._ends.late:
                self._decide_late()  # its PID is another's now
            if record is None:
                self.ledger.unneeded += 1
                self.ledger.unknown += event[5] not in wire.KNOWN
                if event[5] == wire.NONE:
                    self._note_ack(event[3], event[8])
            elif self._sent_by_execs and event in self._sent_by_execs and _keeps_real_id(record):
                # A setuid program's: the change is the new image's.
                self._credited.setdefault(event[9], []).append(record)
            else:
                self._decide(record)
        except Exception:
            # One event must not cost the others. Nothing is hidden: it is counted, and told with its event.
            self.ledger.failed += 1
            self._tell_failure(f"at event {wire.Event(*event)}, going on without it")
        if event[5] == wire.EXEC and self._credited:
            self._decide_credited(event)
        self._handled += 1
        if self._unwritten_events == self._unsettled:
            self._marks.words[Marks.SETTLED] += 1
        else:
            self.settle()

    @property
    def _unwritten_events(self) -> int:
        """Those whose entry, or the summary that they are in, or the entry on their loss, is not written yet."""
        writer, losses = self.writer, self.losses
        return writer.held_events + self._silence.events + writer.unwritten_events - losses.unwritten_told

    def settle(self) -> None:
        """Mark how much of all that was received has come to its end. On the worker's thread, or while there is none.

        An EXIT that waits for the end of its process has: whoever comes after us finds that process, or how it ended.
        """
        ledger, words = self.ledger, self._marks.words
        self._unsettled = self._unwritten_events
        others = ledger.malformed + ledger.odd + ledger.foreign + self.losses.told
        credited = sum(map(len, self._credited.values()))
        words[Marks.SETTLED] = self._settled_before + self._handled - self._unsettled - credited + others
        if not self._unsettled and self._concluded_ns:
            words[Marks.SETTLED_NS] = self._concluded_ns

    def _note_ack(self, number: int, error: int) -> None:
        if self._connector is None or not self._connector.is_ours(number):
            if self._connector is not None and self._connector.was_ours(number):
                return
            self.losses.note_strange_ack()
            if may_lower(error):
                self._on_danger()
        else:
            if self._acknowledged is None and not self.fork_watch.goes_on:
                # That of the subscription. What came before came by others'.
                self.ledger.forks = 0
            if self._is_acknowledged(number):
                return  # two threads ask, and the later answer may come first
            self._acknowledged = number
            self._forks_acknowledged = self.ledger.forks

    def _decide(self, record: Record) -> None:
        if self._tape is not None:
            self._tape.write(record)
        decision = self._rules.decide(record)
        if record.event == "exec" and self._sigma.rules:
            decision = self._sigma.judge(record, decision)
            self._detections_cut += max(0, len(decision.detections) - DETECTIONS_LIMIT)
        if decision.inherited:
            self.table.tag(record.process, decision.inherited)
        by = (decision.rule, decision.action)
        self._decided[by] = self._decided.get(by, 0) + 1
        if decision.action == "drop":
            self.ledger.dropped += not record.found
        elif decision.detections or not self._silence.takes(record, decision):
            self.writer.write(self.builder.build(record, decision))

    def _decide_credited(self, event: RawEvent) -> None:
        """Changes of ids that waited for the image that they belong to, which this EXEC made."""
        for record in self._credited.pop(event[9], ()):
            try:
                self._records.renew(record)
                self._decide(record)
            except Exception:
                self.ledger.failed += 1
                self._tell_failure(f"at event {wire.Event(*event)}, going on without it")

    def _tell_failure(self, where: str, count: int = 1) -> None:
        self._failures += 1
        if self._failures <= FAILURES_SHOWN:
            text = f"internal error {where}: {traceback.format_exc()}"
            self.own("loss", text, WARNING, count=count, lost_where="worker")


def _deadline(asked: tuple[Callable[[], None], int | None, float]) -> float:
    return asked[2]


def _keeps_real_id(record: Record) -> bool:
    """Whether a uid or gid event leaves the real id as it was, as an exec does and setuid(2) by root does not."""
    old = None if record.before is None else record.before.creds
    new = record.process.creds
    if old is None or new is None:
        return False
    return old.uid == new.uid if record.event == "uid" else old.gid == new.gid
