# SPDX-License-Identifier: MIT
"""Whether the kernel still tells us, and what is done where it does not.

The kernel's counter of listeners can be broken by others: by any user since Linux 6.6, by any listener that says
goodbye too often before. Then events stop, without an error, a drop or a gap in the numbers. Only an ACK proves that
they would come: it is asked for at intervals, and must be in the socket once that is drained. Where it is not, the
counter is raised until one comes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from procwatchd.kernel.connector import Connector, find_ack

INTERVAL_SECONDS = 5.0
# Until it is tried again where the kernel refused a request.
RETRY_SECONDS = 0.2
REFUSALS = 5


@dataclass(frozen=True, slots=True)
class Blindness:
    """The kernel told us nothing after `since_ns`, and tells us again from `until_ns` on (None: not yet)."""

    since_ns: int
    until_ns: int | None = None


class Heartbeat:
    """Asks, and looks for the answer in what is received. The listener's thread uses it.

    `tell` is called at the beginning and at the end of each blindness.
    """

    def __init__(self, connector: Connector, tell: Callable[[Blindness], None]) -> None:
        self._connector = connector
        self._tell = tell
        self._next = time.monotonic() + INTERVAL_SECONDS
        self._asked: int | None = None
        self._drops = 0
        self._proof_ns = time.monotonic_ns()
        self._asked_ns = 0
        self._refused = 0
        self._blind_since_ns: int | None = None

    @property
    def is_blind(self) -> bool:
        """Whether the kernel tells us nothing."""
        return self._blind_since_ns is not None

    @property
    def is_waiting(self) -> bool:
        """Whether an answer is awaited: then the socket is to be drained, and all of it shown."""
        return self._asked is not None

    def hurry(self) -> None:
        """There is reason for doubt: ask soon. From any thread."""
        self._next = 0.0

    def patience(self, most_seconds: float) -> float:
        """How long there is nothing to do here, at most so long."""
        return min(most_seconds, max(0.0, self._next - time.monotonic()))

    def beat(self) -> None:
        """Ask, where it is time."""
        if self._asked is not None or time.monotonic() < self._next:
            return
        self._drops = self._connector.kernel_drops()
        self._asked_ns = time.monotonic_ns()
        self._next = 0.0  # where it is not answered, again at once: somebody may go on to break the counter
        try:
            self._asked = self._connector.win_back() if self.is_blind else self._connector.ask()
        except OSError:
            # For want of memory, it may be: only where that goes on it is as if there were no answer.
            self._next = time.monotonic() + RETRY_SECONDS
            self._refused += 1
            self._asked = 0 if self._refused >= REFUSALS else None

    def look(self, datagrams: bytes) -> None:
        """Look for the answer in what was received since it was asked for."""
        if self._asked is None or find_ack(datagrams, self._asked) is None:
            return
        self._asked = None
        self._refused = 0
        self._next = time.monotonic() + INTERVAL_SECONDS
        self._proof_ns = self._asked_ns
        if self._blind_since_ns is not None:
            self._tell(Blindness(self._blind_since_ns, self._asked_ns))
            self._blind_since_ns = None

    def conclude(self, last_event_ns: int) -> None:
        """The socket was drained, its last event was then: where the answer did not come, it will not."""
        if self._asked is None:
            return
        self._asked = None
        if self._connector.kernel_drops() != self._drops:
            return  # it may have been dropped as events were: asked again at once
        if self._blind_since_ns is None:
            self._blind_since_ns = max(self._proof_ns, last_event_ns)
            self._tell(Blindness(self._blind_since_ns))
