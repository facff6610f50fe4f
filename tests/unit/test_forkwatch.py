# SPDX-License-Identifier: MIT
"""What the kernel's own count of forks says of a blindness that nobody noticed."""

from __future__ import annotations

from procwatchd.forkwatch import ForkWatch
from procwatchd.ledger import Ledger


class Kernel:
    """Counts forks."""

    def __init__(self) -> None:
        self.forks = 1000

    def count(self) -> int:
        return self.forks


def test_forks_that_are_all_told_are_well() -> None:
    kernel, ledger = Kernel(), Ledger()
    watch = ForkWatch(ledger, kernel.count)
    watch.begin()
    kernel.forks += 50
    assert watch.kernel_forks() == 50
    for beyond in (0, -2, 0):
        assert watch.check(beyond) is None


def test_what_is_on_its_way_is_no_blindness() -> None:
    watch = ForkWatch(Ledger(), Kernel().count)
    assert watch.check(3) is None
    assert watch.check(0) is None
    assert watch.check(2) is None


def test_what_stays_missing_was_not_told() -> None:
    watch = ForkWatch(Ledger(), Kernel().count)
    assert watch.check(0) is None
    assert watch.check(40) is None
    found = watch.check(42)
    assert found is not None
    blindness, missing = found
    assert missing == 40
    assert blindness.until_ns is not None
    assert blindness.since_ns < blindness.until_ns
    # It is told once; two more may still be on their way.
    assert watch.check(42) is None
    assert watch.check(40) is None


def test_what_a_loss_explains_is_no_blindness() -> None:
    kernel, ledger = Kernel(), Ledger()
    watch = ForkWatch(ledger, kernel.count)
    watch.begin()
    kernel.forks += 100
    ledger.forks = 70
    assert watch.untold() == 30
    assert watch.untold() == 0
    for _ in range(3):
        assert watch.check(30) is None
    kernel.forks += 5
    ledger.forks += 5
    assert watch.check(30) is None
