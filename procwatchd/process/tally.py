# SPDX-License-Identifier: MIT
"""What the ended tasks of one life come to: its status, and what it used.

Facts:
- What the parent sees is the status of exit_group(2) or of the signal that ended the process; where there was neither,
  that of the last task [kernel/exit.c, wait_task_zombie(), synchronize_group_exit()]. Tasks that such an end takes with
  it have its status, and are marked as killed; one that was about to end by itself has its own, 0 from any libc.
- CPU time is counted for each task, as of its last tick or switch, so that most short ones have none; it is summed up
  for the process as its other tasks end. I/O is not summed up [kernel/taskstats.c, fill_tgid_exit()].
- The peak of memory is that of the address space, so of the last image.
"""

from __future__ import annotations

from dataclasses import dataclass

from procwatchd.kernel.taskstats import LAST, SIGNALED, TaskEnd

# How long the status of one task may stand for that of all, where the last one has 0: as long as it may take a
# task from deciding to end by itself to its end.
SAME_END_NS = 10_000_000


@dataclass(slots=True)
class Usage:
    """What a process took, None where not known: times in µs, sizes in bytes."""

    duration_usec: int | None = None
    cpu_usec: int | None = None
    memory_peak: int | None = None
    io_read_bytes: int | None = None
    io_write_bytes: int | None = None


class Tally:
    """What the ended tasks of one life come to. `last` is the record of the last one, once it is there."""

    __slots__ = ("cpu_ns", "group_status", "last", "read_bytes", "recent", "unrecorded", "write_bytes")

    def __init__(self) -> None:
        self.cpu_ns = 0
        self.read_bytes = 0
        self.write_bytes = 0
        self.unrecorded = 0
        self.last: TaskEnd | None = None
        # The status that is surely the process's; the last one that is not 0, and when it was.
        self.group_status: int | None = None
        self.recent = (0, 0)

    def add(self, status: int, timestamp_ns: int, record: TaskEnd | None) -> None:
        """Count a task that ended."""
        if record is None:
            self.unrecorded += 1
        else:
            self.cpu_ns += record.cpu_ns
            self.read_bytes += record.read_bytes
            self.write_bytes += record.write_bytes
            if record.flags & LAST:
                self.last = record
        if status & 0x7F or (status and record is not None and record.flags & SIGNALED):
            # (With 0 it may be that an exec ended it.)
            self.group_status = status
        elif status:
            self.recent = (status, timestamp_ns)

    def join(self, others: Tally, began_ns: int, execed_ns: int) -> None:
        """Add what other tasks of the life came to, whose times are since it began; its last exec was then."""
        self.cpu_ns += others.cpu_ns
        self.read_bytes += others.read_bytes
        self.write_bytes += others.write_bytes
        self.last = others.last or self.last
        if others.group_status is not None:
            self.group_status = others.group_status
        status, after_ns = others.recent
        if status and began_ns + after_ns > max(execed_ns, self.recent[1]):
            self.recent = (status, began_ns + after_ns)

    def execed(self) -> None:
        """Another image: what an exec ended was no end of the process."""
        self.group_status = None
        self.recent = (0, 0)

    def status(self, status: int, timestamp_ns: int) -> tuple[int, bool]:
        """The process's, where the last EXIT has this one; and whether that is for certain."""
        if self.last is not None:
            status = self.last.status
        if self.group_status is not None:
            return self.group_status, True
        recent, recent_ns = self.recent
        if not status and recent and timestamp_ns - recent_ns <= SAME_END_NS:
            return recent, False
        return status, True

    def known_status(self) -> int | None:
        """The process's, where its last EXIT is not known; None where that alone would say it."""
        if self.group_status is None and self.last is not None:
            return self.last.status
        return self.group_status

    def usage(self, *, is_whole: bool) -> Usage:
        """What they took; `is_whole` says that every task there ever was is in it."""
        if self.last is None:
            return Usage()
        usage = usage_alone(self.last)
        if self.last.group_cpu_ns is not None:
            # The kernel's sum lacks a task that ends at the same time, ours one whose end was not seen.
            usage.cpu_usec = max(self.cpu_ns, self.last.group_cpu_ns) // 1000 or None
            if is_whole and not self.unrecorded:
                usage.io_read_bytes, usage.io_write_bytes = self.read_bytes, self.write_bytes
        return usage


def usage_alone(record: TaskEnd) -> Usage:
    """What a process took, as far as the record of its last task says."""
    usage = Usage(
        record.process_elapsed_usec, record.cpu_ns // 1000 or None, record.memory_peak_bytes or None
    )
    if record.group_cpu_ns is None:
        usage.io_read_bytes, usage.io_write_bytes = record.read_bytes, record.write_bytes
    else:
        # There were other tasks once; what they read and wrote is in their own records.
        usage.cpu_usec = max(record.cpu_ns, record.group_cpu_ns) // 1000 or None
    return usage
