# SPDX-License-Identifier: MIT
"""From an event to a record: the table is changed as the event says, and what is known is put together.

Facts:
- setuid(2) of a program with threads is one UID event for each of them, in any order; a thread can also change its own
  ids alone. /proc/PID/status shows the leader's. COMM comes also where the name stays.
- SID has no session in it: setsid(2) makes the caller's own number the session's.
- PTRACE with tracer 0 is the end of the tracing.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

from procwatchd.kernel import wire
from procwatchd.kernel.wire import RawEvent
from procwatchd.process.ends import CONNECTOR, End, Ends
from procwatchd.process.enrich import Outcome
from procwatchd.process.executables import NO_CHECKSUM
from procwatchd.process.kills import Kills
from procwatchd.process.model import Process, Record
from procwatchd.process.procfs import NotRead, Reading
from procwatchd.process.table import Table


class RecordMaker:
    """Makes records of the kinds of events that are wanted. One thread uses it."""

    KEPT = ("_traced",)

    def __init__(self, table: Table, ends: Ends, kills: Kills, own_pid: int) -> None:
        self._table = table
        self._ends = ends
        self._kills = kills
        self._own_pid = own_pid
        self._wanted: frozenset[str] = frozenset()
        self._threads = self._hashes = False
        self._followers: set[RawEvent] = set()
        # Who is traced: by task, its tracer's id.
        self._traced: dict[int, dict[int, int]] = {}
        self._handlers: dict[int, Callable[[RawEvent, Outcome | None], Record | None]] = {
            wire.FORK: self._fork,
            wire.EXEC: self._exec,
            wire.EXIT: self._exit,
            wire.UID: self._uid,
            wire.GID: self._gid,
            wire.SID: self._sid,
            wire.PTRACE: self._ptrace,
            wire.COMM: self._comm,
            wire.COREDUMP: self._coredump,
        }

    def configure(self, wanted: frozenset[str], *, threads: bool, hashes: bool) -> None:
        """Make records of these events from now on; `threads`: of those of single threads, too.

        `hashes`: checksums are wanted.
        """
        self._wanted = wanted
        self._threads = threads
        self._hashes = hashes
        if "ptrace" not in wanted:
            self._traced.clear()  # who lets go of whom is not told from now on

    def look_ahead(self, events: list[RawEvent]) -> None:
        """See what comes, for what an event alone does not say."""
        self._followers = id_changes_of_followers(events) if self._threads else set()

    def make(self, event: RawEvent, reading: Outcome | None) -> Record | None:
        """The record of an event, with what was read for it if it is an EXEC; None where it is no one's need."""
        handler = self._handlers.get(event[5])
        return None if handler is None else handler(event, reading)

    def renew(self, record: Record) -> None:
        """Make a record one about its process as it is now."""
        process = self._process(record.process.pid)
        record.process = process
        record.source = _source(process)
        record.identity = process.image.identity

    def found(self, found: End | Process, monotonic_ns: int) -> Record | None:
        """The record of an end, of a new process, or of a new image, that a resync found then."""
        if isinstance(found, Process):
            never_execed = found.inherited or found.image.argv is None
            event, source = ("fork", _source(found)) if never_execed else ("exec", "proc")
            record = Record(event, found, monotonic_ns, source, found.image.identity)
        else:
            process, duration_usec = found.process, found.usage.duration_usec
            if process.forked_ns is not None and duration_usec is not None:
                monotonic_ns = process.forked_ns + 1000 * duration_usec
            elif found.ended_ns is not None:
                monotonic_ns = found.ended_ns
            record = Record("exit", process, monotonic_ns, _source(process), process.image.identity)
            self._take_end(record, found)
        record.found = True
        return record if record.event in self._wanted and record.process.pid != self._own_pid else None

    def ended_late(self, end: End) -> Record | None:
        """The record of an end that an EXIT before stands for, or none does."""
        if self._traced:
            self._forget_tracing(end.process.pid)
        record = self.found(end, end.ended_ns or time.monotonic_ns())
        if record is not None:
            record.found = not end.has_exit
        return record

    def _record(
        self, event: str, process: Process, raw: RawEvent, *, of_thread: bool = False
    ) -> Record | None:
        """A record of an event about a process the table knows, if such events are wanted."""
        if event not in self._wanted or process.pid == self._own_pid:
            return None
        record = Record(event, process, raw[7], _source(process), process.image.identity)
        if of_thread:
            record.tid = raw[8]
        return record

    def _process(self, tgid: int) -> Process:
        return self._table.get(tgid) or self._table.stranger(tgid)

    def _fork(self, event: RawEvent, _reading: Outcome | None) -> Record | None:
        parent_tgid, tid, tgid = event[9], event[10], event[11]
        if tid == tgid:
            before = self._table.get(tgid)
            process = self._table.fork(parent_tgid, tgid, event[7])
            if before is not None and before is not process:
                self._ends.given_away(before)
            return self._record("fork", process, event)
        if self._ends.follows_threads:
            self._table.thread_forked(tgid, tid)
        if not self._threads:
            return None
        record = self._record("fork", self._process(tgid), event)
        if record is not None:
            record.tid = tid
        return record

    def _exec(self, event: RawEvent, reading: Outcome | None) -> Record | None:
        self._ends.execed(event[9], event[7])
        process = self._table.exec(event[9], reading or NotRead.GONE, event[7])
        record = self._record("exec", process, event)
        if record is not None and isinstance(reading, Reading):
            if not reading.is_recorded:
                record.lag_ns = max(0, reading.begun_ns - event[7])
            if process.image.identity == "same":
                record.source = "recorder" if reading.is_recorded else "proc"
                record.filename = reading.filename
                record.environment = reading.environment
                record.is_environment_cut = reading.is_environment_cut
                if reading.checksum is not None:
                    record.sha256 = reading.checksum.value
        if record is not None and self._hashes:
            record.is_hash_late = record.sha256 is None and _is_hash_late(reading)
        return record

    def _exit(self, event: RawEvent, _reading: Outcome | None) -> Record | None:
        tid, tgid, status = event[8], event[9], event[10]
        end = self._ends.task_ended(tgid, tid, status, event[7])
        if end is not None:
            if self._traced:
                self._forget_tracing(tgid)
            record = self._record("exit", end.process, event)
            if record is None:
                self._kills.forget(end.process)
            else:
                self._take_end(record, end)
            return record
        if not self._threads:
            return None
        record = self._record("exit", self._process(tgid), event, of_thread=True)
        if record is not None:
            record.wait_status, record.end_source = status, CONNECTOR
        return record

    def _uid(self, event: RawEvent, _reading: Outcome | None) -> Record | None:
        return self._ids(event, "uid")

    def _gid(self, event: RawEvent, _reading: Outcome | None) -> Record | None:
        return self._ids(event, "gid")

    def _ids(self, event: RawEvent, name: str) -> Record | None:
        """A uid or gid event. One that changes nothing is unneeded, so is a thread's that does what its leader does."""
        before = self._process(event[9])
        old = before.creds or self._table.unknown_creds
        real, effective = event[10], event[11]
        if name == "uid":
            new = dataclasses.replace(old, uid=real, euid=effective)
        else:
            new = dataclasses.replace(old, gid=real, egid=effective)
        of_thread = event[8] != event[9] and not _has_lost_its_leader(before)
        if new == old or (of_thread and (not self._threads or event in self._followers)):
            return None
        process = before.copy() if of_thread else self._table.changed(before)
        process.creds = new
        record = self._record(name, process, event, of_thread=of_thread)
        if record is not None:
            record.before = before
        return record

    def _sid(self, event: RawEvent, _reading: Outcome | None) -> Record | None:
        """setsid(2) makes the process the leader of a session of its own number, without a terminal."""
        process = self._table.changed(self._process(event[9]))
        process.context = dataclasses.replace(process.context, sid=event[9], tty=None)
        return self._record("sid", process, event)

    def _ptrace(self, event: RawEvent, _reading: Outcome | None) -> Record | None:
        """Of a process the first thread that a tracer takes, and the last that it lets go; of threads each."""
        tid, tgid, tracer_tgid = event[8], event[9], event[11]
        traced = self._traced.setdefault(tgid, {})
        if tracer_tgid:
            is_first = tracer_tgid not in traced.values()
            traced[tid] = tracer_tgid
        else:
            was_traced = traced.pop(tid, None)
            is_first = was_traced is None or was_traced not in traced.values()
        if not traced:
            del self._traced[tgid]
        if not is_first and not self._threads:
            return None
        of_thread = self._threads and tid != tgid
        record = self._record("ptrace", self._process(tgid), event, of_thread=of_thread)
        if record is not None and tracer_tgid:
            record.tracer_pid = tracer_tgid
            record.tracer = self._table.get(tracer_tgid)
        return record

    def _take_end(self, record: Record, end: End) -> None:
        record.wait_status, record.end_source, record.usage = end.wait_status, end.source, end.usage
        signal = (end.wait_status or 0) & 0x7F
        if signal:
            record.killer, record.is_oom_killed = self._kills.take(end.process, signal)
        else:
            self._kills.forget(end.process)

    def _forget_tracing(self, tgid: int) -> None:
        """A process has ended, who may have been traced, or a tracer; nobody tells of what that lets go."""
        self._traced.pop(tgid, None)
        for traced in list(self._traced.values()):
            for tid in [tid for tid, tracer in traced.items() if tracer == tgid]:
                del traced[tid]

    def _comm(self, event: RawEvent, _reading: Outcome | None) -> Record | None:
        """A new name of a process; a thread's own name is not its process's."""
        before = self._process(event[9])
        comm = wire.decode_comm(event)
        of_thread = event[8] != event[9]
        if comm == before.comm and before.execed_ns < event[7] < before.read_ns and not of_thread:
            # It was there when the exec's was read: what the name was before is not known.
            before = before.copy()
            before.comm = None
        if comm == before.comm or (of_thread and not self._threads):
            return None
        process = before.copy() if of_thread else self._table.changed(before)
        process.comm = comm
        record = self._record("comm", process, event, of_thread=of_thread)
        if record is not None and not of_thread:
            record.before = before
        return record

    def _coredump(self, event: RawEvent, _reading: Outcome | None) -> Record | None:
        return self._record("coredump", self._process(event[9]), event)


def _is_hash_late(reading: Outcome | None) -> bool:
    """Whether there may be a checksum that was not to be had in time."""
    if not isinstance(reading, Reading):
        return reading is not NotRead.REFUSED
    return reading.checksum != NO_CHECKSUM


def _has_lost_its_leader(process: Process) -> bool:
    return process.threads is not None and process.pid not in process.threads


def id_changes_of_followers(events: list[RawEvent]) -> set[RawEvent]:
    """The uid and gid events of threads whose leader's next one is the same: libc changes all threads, in any order."""
    followers: set[RawEvent] = set()
    leaders: dict[tuple[int, int], RawEvent] = {}
    for event in reversed(events):
        what, tid, tgid = event[5], event[8], event[9]
        if what not in (wire.UID, wire.GID):
            continue
        if tid == tgid:
            leaders[what, tgid] = event
        elif (leader := leaders.get((what, tgid))) is not None and leader[10:12] == event[10:12]:
            followers.add(event)
    return followers


def _source(process: Process) -> str:
    """Where a process's command line and executable come from, if not from a reading for this very event."""
    if process.image.argv is None and process.image.exe is None:
        return "none"
    return "inherited" if process.inherited else "table"
