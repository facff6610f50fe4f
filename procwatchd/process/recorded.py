# SPDX-License-Identifier: MIT
"""What was recorded of execs, until their EXEC comes.

Facts:
- What an exec made is recorded before its EXEC is sent, and after whatever came before in the process's life. So it is
  that of the EXEC which is the next one of the same process; if that one was lost there may be an older one, too.
- Nothing races here: what was recorded is what the exec made, whatever became of the process since.
"""

from __future__ import annotations

from procwatchd.kernel.recording import NO_AUDIT_ID, ExecRecording, decode_exec
from procwatchd.process.model import Context
from procwatchd.process.procfs import Ids, Reader, Reading, Stat

# Recordings that wait for their EXEC, which comes a moment after, if it was not lost.
WAITING_LIMIT = 1 << 16
# Contexts that are kept for the next process there.
CONTEXTS_LIMIT = 1024
# The recorder's clock may be read a little later than it should [kernel/time/timekeeping.c, ktime_get_mono_fast_ns()];
# no exec follows on another so soon.
MARGIN_NS = 20_000
# From the recording to its EXEC it takes some microseconds, but for whom a tracer holds or who must wait for a CPU.
USUAL_NS = 100_000


class Recorded:
    """Keeps recordings, and makes readings of them. One thread uses it.

    `unused` counts those whose EXEC did not come, `missing` the EXECs of which there is none, or none with arguments.
    """

    KEPT = ("_waiting", "_lost_ns")

    def __init__(self, reader: Reader) -> None:
        self.unused = 0
        self.missing = 0
        self._reader = reader
        self._waiting: dict[int, list[ExecRecording]] = {}
        # Of those from before then some are missing.
        self._lost_ns = 0
        # Most start where their parents are, so that what is made for one serves for many.
        self._contexts: dict[tuple[object, ...], Context] = {}

    def add(self, items: list[bytes]) -> None:
        """Keep what the recorder gave."""
        self._limit()
        for item in items:
            recording = decode_exec(item)
            if recording is not None:
                self._waiting.setdefault(recording.tgid, []).append(recording)

    def lost(self, until_ns: int) -> None:
        """Some were lost before then."""
        self._lost_ns = until_ns

    def _limit(self) -> None:
        """Let go of the oldest, of those that were there when EXECs came last."""
        waiting = self._waiting
        excess = sum(map(len, waiting.values())) - WAITING_LIMIT
        while excess > 0:
            dropped = len(waiting.pop(next(iter(waiting))))
            self.unused += dropped
            excess -= dropped

    def take(self, tgid: int, timestamp_ns: int) -> Reading | None:
        """What was recorded for this EXEC; the older ones of the same process are of no use any more."""
        waiting = self._waiting.pop(tgid, None)
        if waiting is None:
            self.missing += 1
            return None
        before = [recording for recording in waiting if recording.ns <= timestamp_ns + MARGIN_NS]
        if len(before) < len(waiting):
            self._waiting[tgid] = waiting[len(before) :]
        if not before or self._is_doubtful(before[-1], timestamp_ns):
            self.unused += len(before)
            self.missing += 1
            return None
        self.unused += len(before) - 1
        reading = self._reading(before[-1])
        self.missing += reading.argv is None
        return reading

    def _is_doubtful(self, recording: ExecRecording, timestamp_ns: int) -> bool:
        """Whether it may be of an EXEC that was lost, and that of this one was lost, too."""
        return recording.ns < self._lost_ns and recording.ns < timestamp_ns - USUAL_NS

    def _reading(self, recording: ExecRecording) -> Reading:
        stat = Stat(
            recording.comm, b"R", recording.ppid, recording.sid, recording.tty, 1, recording.start_ticks
        )
        argv, tail = recording.argv, recording.argv_tail
        missing = 0 if argv is None else recording.argv_bytes - len(argv)
        if argv is not None and 0 < missing <= len(tail):
            argv, tail = argv + tail[-missing:], b""
        return Reading(
            stat,
            recording.exe,
            argv,
            recording.argv_bytes,
            tail,
            self._context_of(recording),
            recording.ns,
            recording.ns,
            Ids(recording.uid, recording.euid, recording.gid, recording.egid),
            is_recorded=True,
            filename=recording.filename,
        )

    def _context_of(self, recording: ExecRecording) -> Context:
        key = (*tuple(recording)[_CONTEXT], recording.cwd, recording.cgroup)
        context = self._contexts.get(key)
        if context is None:
            if len(self._contexts) >= CONTEXTS_LIMIT:
                self._contexts.clear()
            context = self._contexts[key] = self._context(recording)
        return context

    def _context(self, recording: ExecRecording) -> Context:
        reader = self._reader
        context = Context(
            cwd=recording.cwd,
            sid=recording.sid,
            loginuid=_audit_id(recording.loginuid),
            audit_session=_audit_id(recording.audit_session),
            place=None if recording.cgroup is None else reader.places.get(recording.cgroup),
        )
        if recording.tty:
            context.tty = reader.ttys.name(recording.tty)
        reader.take_namespaces(context, recording.mount_namespace, recording.user_namespace)
        return context


# From loginuid to user_namespace.
_CONTEXT = slice(ExecRecording._fields.index("loginuid"), ExecRecording._fields.index("user_namespace") + 1)


def _audit_id(number: int) -> int | None:
    return None if number == NO_AUDIT_ID else number
