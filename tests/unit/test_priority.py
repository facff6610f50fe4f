# SPDX-License-Identifier: MIT
"""How long a thread is in real time."""

from __future__ import annotations

import os

from procwatchd.kernel.priority import BUDGET_NS, PERIOD_NS, Budget

RR, OTHER = os.SCHED_RR, os.SCHED_OTHER


class Thread:
    """A thread whose clocks the test moves; `policies` are what it set, in order."""

    def __init__(self) -> None:
        self.now_ns = 10 * PERIOD_NS
        self.spent_ns = 0
        self.policies: list[int] = []
        self.budget = Budget(self.set_policy, lambda: self.spent_ns, lambda: self.now_ns)

    def set_policy(self, policy: int) -> bool:
        self.policies.append(policy)
        return True

    def work(self, spent_ns: int, *, is_racing: bool = True) -> list[int]:
        self.now_ns += spent_ns
        self.spent_ns += spent_ns
        self.budget.keep(is_racing=is_racing)
        return self.policies


def test_who_does_not_race_never_is_in_real_time() -> None:
    assert Thread().work(1000, is_racing=False) == []


def test_who_has_little_to_do_stays_in_real_time() -> None:
    thread = Thread()
    for _ in range(100):
        thread.now_ns += PERIOD_NS // 10
        assert thread.work(BUDGET_NS // 20) == [RR]


def test_the_budget_is_for_one_period() -> None:
    thread = Thread()
    thread.work(0)
    assert thread.work(BUDGET_NS) == [RR]
    assert thread.work(1) == [RR, OTHER]
    assert thread.work(1000) == [RR, OTHER]
    thread.now_ns += PERIOD_NS
    assert thread.work(0) == [RR, OTHER, RR]
    assert thread.work(BUDGET_NS) == [RR, OTHER, RR]
    assert thread.work(1) == [RR, OTHER, RR, OTHER]


def test_the_end_of_the_race_is_the_end_of_real_time() -> None:
    thread = Thread()
    thread.work(0)
    assert thread.work(1, is_racing=False) == [RR, OTHER]
    assert thread.work(1, is_racing=False) == [RR, OTHER]
