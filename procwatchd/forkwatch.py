# SPDX-License-Identifier: MIT
"""An independent check: the kernel counts its forks, too.

Facts:
- `processes` in /proc/stat grows by one for each FORK that the connector tells, threads included; it knows nothing of
  listeners [kernel/fork.c, copy_process(); fs/proc/stat.c].

So where it grows by more than there were FORKs, and no loss says why, somebody kept the kernel from telling us and
let it go on before the heartbeat noticed. While the FORKs of threads are filtered, it takes a count of processes alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from procwatchd.kernel.heartbeat import Blindness

# One look may come a moment too early for what another one shows.
EXCUSED_CHECKS = 2


class KernelForks(NamedTuple):
    """The kernel's count at one moment: how many forks since `begun`, a mark of what is counted."""

    number: int
    begun: object


class ForkWatch:
    """Compares the two counts. `kernel_forks` is for any thread, the rest for one; `count` gives the kernel's.

    What is compared is how many forks more than FORKs there were at one moment, `beyond`; of these `told` are told of.
    """

    KEPT = ("_left", "_excused")

    def __init__(self, count: Callable[[], int | None]) -> None:
        # What whoever ran before us has left: which of the kernel's counts, and what it was as of the last FORK.
        self._left: tuple[bool, int] | None = None
        self.goes_on = False
        self._set_out(count, None)
        self._told_before = 0
        self._well_ns = time.monotonic_ns()

    def _set_out(self, count: Callable[[], int | None], before: int | None) -> None:
        # The three that belong together, for whoever counts meanwhile.
        self._counting = (count, before, object())
        self._told = 0
        # Between the one beginning and the other there may have been some.
        self._offset = 0
        # How many more there were the last time; how many checks more are to show what is told already.
        self._suspected = 0
        self._excused = 0
        self._is_new = True

    @property
    def told(self) -> int:
        """How many forks were told to be missing."""
        return self._told_before + self._told

    def begin(self, *, of_processes: bool, may_go_on: bool = True) -> None:
        """Count from now on, or where it may be from where the one before us stopped; just before the subscription.

        `of_processes` says which of the kernel's counts it is.
        """
        self._recount(self._counting[0])
        count, before, mark = self._counting
        if may_go_on and before is not None and self._left is not None and self._left[0] == of_processes:
            # What was not told meanwhile is missing: it is compared from the first time on.
            self.goes_on, self._is_new = True, False
            self._counting = (count, self._left[1], mark)

    def leave(self, forks: int, *, of_processes: bool) -> None:
        """Have another one go on, after so many FORKs were worked off; what is not told by then it will tell."""
        before = self._counting[1]
        is_known = before is not None and not self._is_new
        self._left = (of_processes, (before or 0) + self._offset + self._told + forks) if is_known else None

    def compare_with(self, count: Callable[[], int | None]) -> None:
        """Compare with this count from now on, if that is another one."""
        if count != self._counting[0]:
            self._recount(count)

    def _recount(self, count: Callable[[], int | None]) -> None:
        self._told_before += self._told
        self._set_out(count, count())
        self._well_ns = time.monotonic_ns()

    def kernel_forks(self) -> KernelForks | None:
        """How many forks there were by the kernel's count; None where it cannot be read."""
        count, before, mark = self._counting
        now = count()
        return None if now is None or before is None else KernelForks(now - before, mark)

    def number(self, forks: KernelForks | None) -> int | None:
        """How many forks these were, where they are of the count that is compared with now."""
        if forks is None or forks.begun is not self._counting[2]:
            return None
        return forks.number

    def comparable(self, forks: KernelForks | None) -> int | None:
        """The same since FORKs are counted; None until the two were compared once."""
        number = self.number(forks)
        return None if number is None or self._is_new else number - self._offset

    def excuse(self) -> None:
        """Whatever is missing by now has been told as lost."""
        self._excused = EXCUSED_CHECKS

    def untold(self, beyond: int) -> int:
        """How many forks nobody told of, neither by a FORK nor as lost; they are told now."""
        beyond -= self._offset
        untold = max(0, beyond - self._told)
        self._all_told(beyond)
        return untold

    def check(self, beyond: int) -> tuple[Blindness, int] | None:
        """Whether we were blind and did not know: since when, and how many forks were not told.

        What is on its way is missing, too, or seems to be there before its time: only what is missing twice counts.
        """
        if self._is_new:
            self._is_new, self._offset = False, beyond
            return None
        beyond -= self._offset
        untold = beyond - self._told
        missing = min(untold, self._suspected)
        if missing > 0 and not self._excused:
            blindness = Blindness(self._well_ns, time.monotonic_ns())
            self._all_told(self._told + missing)
            return blindness, missing
        if untold <= 0 or self._excused:
            self._excused = max(0, self._excused - 1)
            self._all_told(beyond)
        else:
            self._suspected = untold
        return None

    def _all_told(self, beyond: int) -> None:
        self._told, self._suspected = max(self._told, beyond), 0
        self._well_ns = time.monotonic_ns()
