# SPDX-License-Identifier: MIT
"""An independent check: the kernel counts its forks, too.

Facts:
- `processes` in /proc/stat grows by one for each FORK that the connector tells, threads included; it knows nothing of
  listeners [kernel/fork.c, copy_process(); fs/proc/stat.c].

So where it grows by more than there were FORKs, and no loss says why, somebody kept the kernel from telling us and
let it go on before the heartbeat noticed.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from procwatchd.kernel.heartbeat import Blindness
from procwatchd.ledger import Ledger


class ForkWatch:
    """Compares the two counts. One thread uses it, but for `kernel_forks`; `count` gives the kernel's since boot."""

    def __init__(self, ledger: Ledger, count: Callable[[], int]) -> None:
        self._ledger = ledger
        self._count = count
        self._before = 0
        # How many forks more than FORKs there are that are told of; and were the last time.
        self._told = 0
        self._suspected = 0
        self._well_ns = time.monotonic_ns()

    def begin(self) -> None:
        """Count from now on; just before the subscription."""
        self._before = self._count()
        self._well_ns = time.monotonic_ns()

    def kernel_forks(self) -> int:
        """How many forks there were by the kernel's count. From any thread."""
        return self._count() - self._before

    def untold(self) -> int:
        """How many forks there were that no FORK told, and no loss; they are told now."""
        beyond = self.kernel_forks() - self._ledger.forks
        untold, self._told, self._suspected = beyond - self._told, beyond, 0
        self._well_ns = time.monotonic_ns()
        return max(0, untold)

    def check(self, beyond: int) -> tuple[Blindness, int] | None:
        """Whether we were blind and did not know: since when, and how many forks were not told.

        `beyond` is how many forks more than FORKs there were at one moment. What is on its way then is missing too:
        only what is missing twice counts.
        """
        now_ns = time.monotonic_ns()
        untold = beyond - self._told
        missing, self._suspected = min(untold, self._suspected), max(0, untold)
        if missing > 0:
            blindness = Blindness(self._well_ns, now_ns)
            self._told += missing
            self._suspected = 0
            self._well_ns = now_ns
            return blindness, missing
        if untold <= 0:
            self._told += untold
            self._well_ns = now_ns
        return None
