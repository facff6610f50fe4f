# SPDX-License-Identifier: MIT
"""Real time for a thread that races against the ends of processes, and no more of it than the machine can spare.

Facts:
- A short process is over in half a millisecond; whoever is to read it must run the moment that it is woken.
- A nice value is no help: since Linux 6.6 the scheduler lets a heavy task that just slept wait for its turn, and wakes
  it where it slept [kernel/sched/fair.c, place_entity()].
- A thread in real time takes all of a CPU for as long as it has something to do, but for the twentieth that the kernel
  keeps for others [sched(7), sched_rt_runtime_us].
- The interpreter's lock is given away after 5 ms, whatever the priority of who waits for it. So who holds it must not
  be kept from running, and no thread in real time may depend on one that is not and has much to do.

So only threads that race are in real time, and each has a budget: who used that up goes on as everybody does, until
the next period.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

PERIOD_NS = 100_000_000
BUDGET_NS = 60_000_000


def run_in_real_time() -> bool:
    """Have the calling thread run in real time, at the lowest priority of that; whether it will."""
    return _set(os.SCHED_RR)


def leave_real_time() -> None:
    """Have the calling thread run as everybody does."""
    _set(os.SCHED_OTHER)


def may_run_in_real_time() -> bool:
    """Whether the calling thread could; it goes on as it was."""
    return _set(os.SCHED_RR) and _set(os.SCHED_OTHER)


def _set(policy: int) -> bool:
    try:
        os.sched_setscheduler(0, policy, os.sched_param(int(policy != os.SCHED_OTHER)))
    except OSError:
        return False
    return True


class Budget:
    """What a thread may spend in real time. That thread uses it.

    `spent_ns` and `now_ns` are clocks: the thread's CPU time, and any that goes on.
    """

    def __init__(
        self,
        set_policy: Callable[[int], bool] = _set,
        spent_ns: Callable[[], int] = time.thread_time_ns,
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._set_policy = set_policy
        self._spent_ns = spent_ns
        self._now_ns = now_ns
        self._policy = os.SCHED_OTHER
        self._period_end_ns = 0
        self._spent_before_ns = 0

    def keep(self, *, is_racing: bool) -> None:
        """Enter real time with a new period, and leave it when the budget is used up; to be called often.

        Where there is nothing to race for it is left at once.
        """
        if not is_racing:
            self._go(os.SCHED_OTHER)
            return
        now_ns = self._now_ns()
        if now_ns >= self._period_end_ns:
            self._period_end_ns = now_ns + PERIOD_NS
            self._spent_before_ns = self._spent_ns()
            self._go(os.SCHED_RR)
        elif self._policy == os.SCHED_RR and self._spent_ns() - self._spent_before_ns > BUDGET_NS:
            self._go(os.SCHED_OTHER)

    def _go(self, policy: int) -> None:
        # What was refused is not asked for again and again.
        if policy != self._policy:
            self._policy = policy
            self._set_policy(policy)
