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

# One look may come a moment too early for what another one shows.
EXCUSED_CHECKS = 2


class ForkWatch:
    """Compares the two counts. `kernel_forks` is for any thread, the rest for one; `count` gives the kernel's.

    What is compared is how many forks more than FORKs there were at one moment, `beyond`; of these `told` are told of.
    """

    def __init__(self, count: Callable[[], int | None]) -> None:
        self.told = 0
        self._count = count
        self._before: int | None = None
        # How many more there were the last time; how many checks more are to show what is told already.
        self._suspected = 0
        self._excused = 0
        self._is_new = True
        self._well_ns = time.monotonic_ns()

    def begin(self) -> None:
        """Count from now on; just before the subscription."""
        self._before = self._count()
        self._well_ns = time.monotonic_ns()

    def kernel_forks(self) -> int | None:
        """How many forks there were by the kernel's count; None where it cannot be read."""
        now = self._count()
        return None if now is None or self._before is None else now - self._before

    def excuse(self) -> None:
        """Whatever is missing by now has been told as lost."""
        self._excused = EXCUSED_CHECKS

    def untold(self, beyond: int) -> int:
        """How many forks nobody told of, neither by a FORK nor as lost; they are told now."""
        untold = max(0, beyond - self.told)
        self._all_told(beyond)
        return untold

    def check(self, beyond: int) -> tuple[Blindness, int] | None:
        """Whether we were blind and did not know: since when, and how many forks were not told.

        What is on its way is missing, too, or seems to be there before its time: only what is missing twice counts.
        """
        if self._is_new:
            # Between the one beginning and the other there may have been some.
            self._is_new = False
            self._before = (self._before or 0) + beyond
            return None
        untold = beyond - self.told
        missing = min(untold, self._suspected)
        if missing > 0 and not self._excused:
            blindness = Blindness(self._well_ns, time.monotonic_ns())
            self._all_told(self.told + missing)
            return blindness, missing
        if untold <= 0 or self._excused:
            self._excused = max(0, self._excused - 1)
            self._all_told(beyond)
        else:
            self._suspected = untold
        return None

    def _all_told(self, beyond: int) -> None:
        self.told, self._suspected = max(self.told, beyond), 0
        self._well_ns = time.monotonic_ns()
