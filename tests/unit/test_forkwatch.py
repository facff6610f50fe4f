# SPDX-License-Identifier: MIT
"""What the kernel's own count of forks says of a blindness that nobody noticed."""

from __future__ import annotations

import pytest

from procwatchd.forkwatch import ForkWatch


class Kernel:
    """Counts forks."""

    def __init__(self) -> None:
        self.forks = 1000

    def count(self) -> int:
        return self.forks


def test_it_counts_from_the_beginning() -> None:
    kernel = Kernel()
    watch = ForkWatch(kernel.count)
    watch.begin(of_processes=True)
    kernel.forks += 50
    assert watch.number(watch.kernel_forks()) == 50


def test_another_count_begins_anew() -> None:
    tasks, processes = Kernel(), Kernel()
    watch = ForkWatch(tasks.count)
    watch.begin(of_processes=True)
    assert [watch.check(beyond) for beyond in (0, 40)] == [None] * 2
    assert watch.check(40) is not None
    tasks.forks += 7
    before = watch.kernel_forks()
    watch.compare_with(tasks.count)
    assert watch.number(before) == 7
    watch.compare_with(processes.count)
    # What was counted of the other does not say anything any more.
    assert watch.number(before) is None
    processes.forks += 5
    now = watch.kernel_forks()
    assert watch.number(now) == 5
    assert watch.comparable(now) is None
    # There were 100 FORKs before.
    assert [watch.check(5 - 100), watch.check(5 + 3 - 103)] == [None] * 2
    assert watch.comparable(now) == 100
    assert [watch.check(-70), watch.check(-70)][1] is not None
    assert watch.told == 40 + 25


def test_without_a_count_nothing_is_compared() -> None:
    watch = ForkWatch(lambda: None)
    watch.begin(of_processes=True)
    assert watch.kernel_forks() is None
    assert watch.number(None) is None
    assert watch.comparable(None) is None


@pytest.fixture
def watch() -> ForkWatch:
    return ForkWatch(Kernel().count)


def test_forks_that_are_all_told_are_well(watch: ForkWatch) -> None:
    assert [watch.check(beyond) for beyond in (0, -2, 0)] == [None] * 3


def test_what_is_on_its_way_is_no_blindness(watch: ForkWatch) -> None:
    assert [watch.check(beyond) for beyond in (3, 0, 2)] == [None] * 3


def test_what_stays_missing_was_not_told(watch: ForkWatch) -> None:
    assert [watch.check(beyond) for beyond in (0, 40)] == [None] * 2
    found = watch.check(42)
    assert found is not None
    blindness, missing = found
    assert missing == 40
    assert blindness.until_ns is not None
    assert blindness.since_ns < blindness.until_ns
    # It is told once; two more may still be on their way.
    assert [watch.check(beyond) for beyond in (42, 40)] == [None] * 2


def test_what_a_loss_explains_is_no_blindness(watch: ForkWatch) -> None:
    watch.excuse()
    assert [watch.check(beyond) for beyond in (30, 30, 30)] == [None] * 3
    assert watch.check(35) is None
    found = watch.check(35)
    assert found is not None
    assert found[1] == 5


def test_what_a_blindness_hid_is_told_once(watch: ForkWatch) -> None:
    assert watch.untold(30) == 30
    assert watch.untold(30) == 0
    assert [watch.check(beyond) for beyond in (30, 30)] == [None] * 2


def restarted(kernel: Kernel, *, of_processes: bool) -> ForkWatch:
    """Another watch, that goes on where one stopped, which had seen 50 forks, and 7 of them told."""
    first = ForkWatch(kernel.count)
    first.begin(of_processes=True)
    kernel.forks += 50
    # Two by two: that 43 FORKs were not told is suspected, and told.
    assert [first.check(0), first.check(43), first.check(43)][2] is not None
    first.leave(7, of_processes=True)
    second = ForkWatch(kernel.count)
    second._left = first._left
    second.begin(of_processes=of_processes)
    return second


def test_who_comes_after_goes_on_to_compare() -> None:
    kernel = Kernel()
    watch = restarted(kernel, of_processes=True)
    assert watch.goes_on
    # 10 were not told, and 4 were.
    kernel.forks += 10 + 4
    assert watch.number(watch.kernel_forks()) == 14
    assert [watch.check(14 - 4), watch.check(14 - 4)][1] is not None
    assert watch.told == 10


def test_what_was_not_told_before_is_told_after() -> None:
    kernel = Kernel()
    first = ForkWatch(kernel.count)
    first.begin(of_processes=True)
    assert first.check(0) is None
    kernel.forks += 200
    first.leave(1, of_processes=True)
    second = ForkWatch(kernel.count)
    second._left = first._left
    second.begin(of_processes=True)
    assert second.number(second.kernel_forks()) == 199


def test_who_never_compared_leaves_nothing() -> None:
    kernel = Kernel()
    watch = ForkWatch(kernel.count)
    watch.begin(of_processes=True)
    watch.leave(1, of_processes=True)
    assert watch._left is None


def test_of_another_count_nobody_goes_on() -> None:
    kernel = Kernel()
    watch = restarted(kernel, of_processes=False)
    assert not watch.goes_on
    assert watch.number(watch.kernel_forks()) == 0
