# SPDX-License-Identifier: MIT
"""Who killed it: the signals that were generated, until the process that they were for ends.

Facts:
- A signal that is neither blocked nor caught ends its process, and none of those after it does [kernel/signal.c,
  prepare_signal(), complete_signal()].
- One that is blocked waits. It may be taken by sigwaitinfo(2), or discarded as another action is set, and nobody tells.
  A second one of the same number is not generated while the first waits; but each task has such a queue of its own
  beside the process's, and signals from SIGRTMIN on are queued all.
- A tracer may hold a signal back or send another one in its place; not SIGKILL.
- Up to Linux 6.1 signals are generated for a process that is ending already, too.
- The OOM killer sends SIGKILL, as the kernel, and marks its victim right after [mm/oom_kill.c, __oom_kill_process()].

So the last signal of the number that ended the process did it, but of SIGKILLs the first. Where another one may have,
nobody is named.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from procwatchd.kernel.recording import (
    BLOCKED,
    OOM_VICTIM,
    TO_GROUP,
    TRACED,
    SignalRecording,
    decode_signal,
)
from procwatchd.process.model import Killer, Process
from procwatchd.process.table import Table

# Processes of which a signal is remembered: whoever blocks it may live on for ever.
REMEMBERED_LIMIT = 4096
# Signals that wait for an event from after them.
WAITING_LIMIT = 65536

SIGKILL, FIRST_QUEUED = 9, 32


@dataclass(slots=True)
class Signal:
    """The last signal of a number to a process, and who sent it; None where the kernel did, or nobody can tell."""

    recording: SignalRecording
    killer: Killer | None
    by_oom_killer: bool = False


class Kills:
    """Remembers signals. One thread uses it. `forgotten` counts the processes whose signals found no room."""

    KEPT = ("_waiting", "_of_process", "_unsure_ns")

    def __init__(self, table: Table, now_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self.forgotten = 0
        self._table = table
        self._now_ns = now_ns
        # What was recorded, and not yet come to in the order of events.
        self._waiting: deque[SignalRecording] = deque()
        self._of_process: dict[int, dict[int, Signal]] = {}
        # Processes from before then may have signals waiting of which nothing is known.
        self._unsure_ns = self._now_ns()

    def add(self, items: list[bytes]) -> None:
        """Keep what the recorder gave, until events from then are come to."""
        new = [recording for recording in map(decode_signal, items) if recording is not None]
        if not new:
            return
        # They come by two ways, so that one from before the last may come after it.
        waiting = self._waiting = deque(sorted([*self._waiting, *new], key=_when))
        while len(waiting) > WAITING_LIMIT:
            self.come_to(waiting[0].ns)

    def lost(self) -> None:
        """Some were lost: of those so far that may wait, which is the last one of a process nobody knows."""
        self._unsure_ns = self._now_ns()
        self._waiting = deque(recording for recording in self._waiting if not recording.flags & BLOCKED)
        for pid, signals in list(self._of_process.items()):
            sure = {number: one for number, one in signals.items() if not one.recording.flags & BLOCKED}
            if sure:
                self._of_process[pid] = sure
            else:
                del self._of_process[pid]

    def forget_all(self) -> None:
        """Nobody recorded any for a while."""
        self._waiting.clear()
        self._of_process.clear()
        self._unsure_ns = self._now_ns()

    def come_to(self, now_ns: int) -> None:
        """Take in what was generated before that time: whoever sent it is in the table now, if ever."""
        waiting = self._waiting
        while waiting and waiting[0].ns <= now_ns:
            recording = waiting.popleft()
            if recording.kind == OOM_VICTIM:
                self._mark_victim(recording.tid)
            else:
                self._take(recording)

    def take(self, process: Process, signal: int) -> tuple[Killer | None, bool]:
        """Who sent the signal that ended a process, if that is known, and whether it was the OOM killer; given once."""
        found = self._forget(process).get(signal)
        if found is None:
            return None, False
        may_have_waited = found.recording.flags & BLOCKED and (process.forked_ns or 0) <= self._unsure_ns
        return None if may_have_waited else found.killer, found.by_oom_killer

    def forget(self, process: Process) -> None:
        """A process ended by itself."""
        if self._of_process:
            self._forget(process)

    def _forget(self, process: Process) -> dict[int, Signal]:
        """What there is of this life, and no more; of a later one with its PID it stays."""
        signals = self._of_process.pop(process.pid, {})
        own = {number: one for number, one in signals.items() if _is_own(process, one.recording)}
        if len(own) < len(signals):
            self._of_process[process.pid] = {n: one for n, one in signals.items() if n not in own}
        return own

    def _take(self, recording: SignalRecording) -> None:
        signals = self._of_process.setdefault(recording.tgid, {})
        before = signals.get(recording.signal)
        if before is not None and before.recording.start_ticks != recording.start_ticks:
            before = None
        if before is not None and recording.signal == SIGKILL:
            return
        killer = self._killer(recording)
        if _may_be_another(before, recording, killer):
            killer = None
        signals[recording.signal] = Signal(recording, killer)
        while len(self._of_process) > REMEMBERED_LIMIT:
            self.forgotten += 1
            self._unsure_ns = self._now_ns()
            del self._of_process[next(iter(self._of_process))]

    def _mark_victim(self, tid: int) -> None:
        """The kernel's last SIGKILL to that task was the OOM killer's."""
        for signals in reversed(self._of_process.values()):
            found = signals.get(SIGKILL)
            if found is not None and found.recording.tid == tid and not found.recording.sender_tgid:
                found.by_oom_killer = True
                return

    def _killer(self, recording: SignalRecording) -> Killer | None:
        if not recording.sender_tgid:
            return None
        sender = self._table.get(recording.sender_tgid)
        if sender is None or not _is_of(sender, recording.sender_start_ticks, recording.ns):
            sender = self._table.stranger(recording.sender_tgid)
        exe, host_mounts = sender.image.exe, sender.context.host_mounts
        return Killer(sender.pid, recording.sender_comm, exe, recording.sender_uid, host_mounts)


def _when(recording: SignalRecording) -> int:
    return recording.ns


def _may_be_another(before: Signal | None, recording: SignalRecording, killer: Killer | None) -> bool:
    """Whether the process may be ended by a signal that is not this one."""
    if recording.flags & TRACED and recording.signal != SIGKILL:
        return True
    return before is not None and before.killer != killer and not _is_over(before.recording, recording)


def _is_over(first: SignalRecording, second: SignalRecording) -> bool:
    """Whether the first signal neither ended the process nor waits any more, as the second one was generated."""
    both_to_group = first.flags & second.flags & TO_GROUP
    return bool(first.flags & BLOCKED and both_to_group and second.signal < FIRST_QUEUED)


def _is_own(process: Process, recording: SignalRecording) -> bool:
    return _is_of(process, recording.start_ticks, recording.ns)


def _is_of(process: Process, start_ticks: int, at_ns: int) -> bool:
    """Whether whoever began at this tick, and lived then, is this life.

    One that is known by its FORK alone began at that, or earlier by as long as its parent had to wait for a CPU.
    """
    known = process.start_ticks
    if known is None or at_ns < (process.forked_ns or 0):
        return False
    return known == start_ticks if process.exact else start_ticks <= known + 1
