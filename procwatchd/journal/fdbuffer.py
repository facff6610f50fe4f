# SPDX-License-Identifier: MIT
"""Lines to a file descriptor: buffered, never waiting for the reader, and accounted for line by line.

Facts:
- The descriptor is often shared with other programs (a terminal, a pipe with a shell behind it), and
  O_NONBLOCK belongs to what is shared [open(2)]: we must not set it, and another may have.
- Where poll(2) says that a pipe can be written, PIPE_BUF (4096) bytes can be written without waiting
  [pipe(7)]. On a terminal that is nearly full such a write may wait for a moment.

So a descriptor that may wait is written in pieces of that size, each after poll said so. What the reader does
not take is held up to a limit; a line beyond that is lost, and counted.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import time
from collections import deque

from procwatchd.journal.entry import OnWritten
from procwatchd.journal.writer import Loss, LossCount

BLOCK_BYTES = 64 << 10
HOLD_BYTES = 64 << 20
RETRY_SECONDS = 0.1

# Of a line: its length, events, realtime_usec, and who wants to know that it is written.
_Mark = tuple[int, int, int, OnWritten]


class _Block:
    """Some lines, end to end, with the marks of each; `written` counts bytes."""

    __slots__ = ("data", "events", "marks", "written")

    def __init__(self, lines: list[bytes], marks: list[_Mark], events: int) -> None:
        self.data = memoryview(b"".join(lines))
        self.marks = marks
        self.events = events
        self.written = 0


class FdBuffer:
    """Writes lines to `fd`, which stays the caller's: what the writers of lines have in common. One thread uses it.

    `broken` once there is nobody to read: from then on every line is counted as lost.
    """

    def __init__(self, fd: int, *, hold_bytes: int = HOLD_BYTES) -> None:
        self.broken = False
        self.written_events = 0
        self.lost = LossCount()
        self._fd = fd
        self._hold_bytes = hold_bytes
        self._blocks: deque[_Block] = deque()
        self._block_bytes = 0
        self._blocks_events = 0
        self._lines: list[bytes] = []
        self._marks: list[_Mark] = []
        self._lines_bytes = 0
        self._lines_events = 0
        self._may_wait = _may_wait(fd)
        self._poll = select.poll()
        # A file is always ready, even where the disk is full.
        if not _is_file(fd):
            self._poll.register(fd, select.POLLOUT)

    @property
    def held_events(self) -> int:
        """The events of the lines that are not yet written."""
        return self._blocks_events + self._lines_events

    @property
    def unwritten_events(self) -> int:
        """The events of all lines that were given up."""
        return self.lost.events

    def close(self) -> None:
        """Write what can be written at once, count the rest as lost. `fd` stays the caller's."""
        self.flush()
        self.give_up()

    def add(self, line: bytes, events: int, realtime_usec: int, on_written: OnWritten = None) -> None:
        """Take one line, with its newline. Written at `flush`, or by itself when there are enough."""
        size = len(line)
        if self.broken or self._block_bytes + self._lines_bytes + size > self._hold_bytes:
            self.lost.add(events, realtime_usec)
            return
        self._lines.append(line)
        self._marks.append((size, events, realtime_usec, on_written))
        self._lines_bytes += size
        self._lines_events += events
        if self._lines_bytes >= BLOCK_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write as much as can be written without waiting."""
        if self._lines:
            self._close_block()
        blocks = self._blocks
        while blocks:
            block = blocks[0]
            if not self._write(block):
                return
            blocks.popleft()
            self._block_bytes -= len(block.data)
            self._blocks_events -= block.events
            self.written_events += block.events
            for *_, on_written in block.marks:
                if on_written is not None:
                    on_written()

    def wait(self, timeout_seconds: float) -> bool:
        """Write what is held, at most for so long; True when nothing is held any more."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            self.flush()
            if not self._blocks:
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._poll.poll(min(left, RETRY_SECONDS) * 1000)

    def give_up(self) -> None:
        """Count as lost what is not wholly written, now and from now on."""
        self.broken = True
        if self._lines:
            self._close_block()
        for block in self._blocks:
            end = 0
            for size, events, realtime_usec, on_written in block.marks:
                end += size
                if end <= block.written:
                    self.written_events += events
                    if on_written is not None:
                        on_written()
                else:
                    self.lost.add(events, realtime_usec)
        self._blocks.clear()
        self._block_bytes = self._blocks_events = 0

    def take_loss(self) -> Loss | None:
        """What was lost since this was last asked; None where nothing was."""
        return self.lost.take()

    def _close_block(self) -> None:
        self._blocks.append(_Block(self._lines, self._marks, self._lines_events))
        self._block_bytes += self._lines_bytes
        self._blocks_events += self._lines_events
        self._lines = []
        self._marks = []
        self._lines_bytes = self._lines_events = 0

    def _write(self, block: _Block) -> bool:
        """Write on with the block; True when all of it is written."""
        size = len(block.data)
        try:
            while block.written < size:
                end = size
                if self._may_wait:
                    if not self._poll.poll(0):
                        return False
                    end = block.written + select.PIPE_BUF
                # Python itself goes on after EINTR.
                block.written += os.write(self._fd, block.data[block.written : end])
        except BlockingIOError:
            return False
        except OSError as error:
            # A full disk may have room again; what else is wrong stays wrong (EPIPE, EIO, EBADF, …).
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                self.give_up()
            return False
        return True


def _is_file(fd: int) -> bool:
    return stat.S_ISREG(os.fstat(fd).st_mode)


def _may_wait(fd: int) -> bool:
    """Whether a write could wait for a reader."""
    mode = os.fstat(fd).st_mode
    return (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(fd)) and os.get_blocking(fd)
