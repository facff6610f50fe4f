# SPDX-License-Identifier: MIT
"""When a process began by /proc's clock, on a machine that sleeps now and then."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from procwatchd.kernel import clock as clock_module
from procwatchd.kernel.clock import NS_PER_TICK, Clock

SECOND = 1_000_000_000


class FakeTime:
    """The clocks of a machine of the test's own, in the place of the module `time`.

    `amid_reading` is called whenever CLOCK_MONOTONIC was read.
    """

    CLOCK_BOOTTIME = time.CLOCK_BOOTTIME

    def __init__(self, now_ns: int = 1000 * SECOND) -> None:
        self.now_ns = now_ns
        self.slept_ns = 0
        self.wall_ns = 1_700_000_000 * SECOND
        self.amid_reading: Callable[[], None] = lambda: None

    def monotonic_ns(self) -> int:
        now_ns = self.now_ns
        self.amid_reading()
        return now_ns

    def monotonic(self) -> float:
        return self.now_ns / SECOND

    def time_ns(self) -> int:
        return self.wall_ns + self.now_ns + self.slept_ns

    def clock_gettime_ns(self, clock_id: int) -> int:
        assert clock_id == self.CLOCK_BOOTTIME
        return self.now_ns + self.slept_ns


def ticks(ns: int) -> int:
    return ns // NS_PER_TICK


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    machine = FakeTime()
    monkeypatch.setattr(clock_module, "time", machine)
    return machine


def test_start_ticks_are_of_the_clock_that_goes_on_in_sleep(machine: FakeTime) -> None:
    machine.slept_ns = 500 * SECOND
    clock = Clock()
    tick = ticks(700 * SECOND)
    assert clock.start_ticks(200 * SECOND) == (tick, tick)
    assert clock.start_ticks(200 * SECOND + NS_PER_TICK - 1) == (tick, tick)
    assert clock.start_ticks(200 * SECOND + NS_PER_TICK) == (tick + 1, tick + 1)


def test_what_was_forked_about_a_suspend_began_at_one_of_two_times(machine: FakeTime) -> None:
    clock = Clock()
    before_ns = machine.now_ns
    machine.now_ns += SECOND
    machine.slept_ns += 60 * SECOND
    machine.now_ns += SECOND
    after_ns = machine.now_ns
    clock.refresh()
    for forked_ns, earliest_ns, latest_ns in (
        (before_ns - SECOND, 0, 0),
        (before_ns, 0, 0),
        (before_ns + 1, 0, 60),
        (before_ns + SECOND, 0, 60),
        (after_ns - 1, 0, 60),
        (after_ns, 60, 60),
        (after_ns + SECOND, 60, 60),
    ):
        assert clock.start_ticks(forked_ns) == (
            ticks(forked_ns + earliest_ns * SECOND),
            ticks(forked_ns + latest_ns * SECOND),
        )


def test_each_of_many_suspends_has_its_own_time(machine: FakeTime) -> None:
    clock = Clock()
    looks = [machine.now_ns]
    for _ in range(5):
        machine.now_ns += 10 * SECOND
        machine.slept_ns += 60 * SECOND
        clock.refresh()
        looks.append(machine.now_ns)
        # A look without a suspend before it is where the next time of doubt begins.
        machine.now_ns += 10 * SECOND
        clock.refresh()
        looks.append(machine.now_ns)
    for n in range(5):
        doubtful_ns, settled_ns = looks[2 * n] + 5 * SECOND, looks[2 * n + 1] + 5 * SECOND
        slept_ns = 60 * SECOND * n
        assert clock.start_ticks(doubtful_ns) == (
            ticks(doubtful_ns + slept_ns),
            ticks(doubtful_ns + slept_ns + 60 * SECOND),
        )
        for began_ns in (looks[2 * n + 1], settled_ns):
            assert clock.start_ticks(began_ns) == (ticks(began_ns + slept_ns + 60 * SECOND),) * 2


def test_the_clocks_own_noise_is_no_suspend(machine: FakeTime) -> None:
    clock = Clock()
    before_ns = machine.now_ns
    for _ in range(100):
        machine.now_ns += SECOND
        machine.slept_ns += 1000
        clock.refresh()
    earliest, latest = clock.start_ticks(before_ns + 50 * SECOND)
    assert earliest == latest == ticks(before_ns + 50 * SECOND)


@pytest.mark.parametrize("at_reading", range(1, 12))
def test_a_suspend_while_the_clocks_are_read(machine: FakeTime, at_reading: int) -> None:
    machine.now_ns += NS_PER_TICK // 2
    clock = Clock()
    readings = 0

    def amid_reading() -> None:
        nonlocal readings
        readings += 1
        machine.now_ns += 100
        if readings == at_reading:
            machine.slept_ns += 60 * SECOND

    begun_ns, machine.amid_reading = machine.now_ns, amid_reading
    clock.refresh()
    machine.amid_reading = lambda: None
    machine.now_ns += SECOND
    clock.refresh()
    for forked_ns in range(begun_ns, begun_ns + 1200, 50):
        slept_ns = 0 if forked_ns < begun_ns + 100 * at_reading else machine.slept_ns
        earliest, latest = clock.start_ticks(forked_ns)
        assert earliest <= ticks(forked_ns + slept_ns) <= latest


def test_wall_clock_time_follows_who_sets_it(machine: FakeTime) -> None:
    clock = Clock()
    assert clock.realtime_usec(machine.now_ns) == machine.time_ns() // 1000
    machine.wall_ns += 3600 * SECOND
    clock.refresh()
    assert clock.now() == (machine.now_ns, machine.time_ns() // 1000)
