# SPDX-License-Identifier: MIT
"""How far we have come, written where it outlives us: should we be killed, the next one knows what was in hand.

It is memory shared with whoever holds its descriptor. Whoever counts writes there at once, by one store each: there is
no moment at which a number is half there, and none costs a system call.
"""

from __future__ import annotations

import mmap
import os
import weakref

_WORDS = 13
_BYTES = 8 * _WORDS
# To be raised with any change of what a word means.
LAYOUT = 2


class Marks:
    """Numbers that survive. Each has one writer; `fd`, which is closed with it, is what another one may be made of.

    In datagrams: `RECEIVED` from the socket, and of these `SETTLED`, that is written, dropped, or told of another way.
    `RECEIVED_NS` and `SETTLED_NS` are about when the last of each was (CLOCK_MONOTONIC). `ASKED` is the number of the
    last request to the connector.

    The others go on for as long as what the kernel counts. What our queue had no room for: `QUEUE_RECORDS`,
    `QUEUE_EXECS`, `QUEUE_SIGNALS`. What is told of that and of the kernel's counters together: `DROPS` of the
    connector's socket, `RECORDS_LOST`, `EXECS_LOST`, `SIGNALS_LOST`, and `PENDING_LOST`.
    """

    RECEIVED, SETTLED, RECEIVED_NS, SETTLED_NS, ASKED = range(5)
    DROPS, RECORDS_LOST, EXECS_LOST, SIGNALS_LOST, PENDING_LOST = range(5, 10)
    QUEUE_RECORDS, QUEUE_EXECS, QUEUE_SIGNALS = range(10, _WORDS)

    def __init__(self, fd: int | None = None) -> None:
        if fd is None:
            fd = os.memfd_create("procwatchd-marks", os.MFD_CLOEXEC)
            os.truncate(fd, _BYTES)
        self.fd = fd
        weakref.finalize(self, os.close, fd)
        self.words = memoryview(mmap.mmap(fd, _BYTES)).cast("Q")

    def told(self, *counters: int, is_kept: bool) -> tuple[int, ...]:
        """What was told of these counters of the kernel; nothing, from now on, where what counts is not the same."""
        if not is_kept:
            for counter in counters:
                self.words[counter] = 0
        return tuple(self.words[counter] for counter in counters)

    @property
    def in_hand(self) -> int:
        """How many datagrams were received, and neither written nor told of."""
        return max(0, self.words[self.RECEIVED] - self.words[self.SETTLED])
