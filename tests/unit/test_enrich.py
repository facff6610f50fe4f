# SPDX-License-Identifier: MIT
"""Which EXECs of a batch are read, and what becomes of the others."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from procwatchd.kernel import wire
from procwatchd.process.enrich import EXEC_MARGIN_NS, FORK_MARGIN_NS, Outcome, read_execs, settle
from procwatchd.process.procfs import NotRead, Reader, Reading, Wants
from tests.unit.fakeproc import FakeProc
from tests.unit.test_table import reading, table

__all__ = ["table"]

FORK, EXEC, EXIT = wire.FORK, wire.EXEC, wire.EXIT


def events(*described: tuple[int, ...]) -> list[wire.RawEvent]:
    return wire.decode(b"".join(wire.encode_event(what, *ids) for what, *ids in described))[0]


@pytest.fixture
def proc(tmp_path: Path) -> FakeProc:
    proc = FakeProc(tmp_path / "proc")
    for pid in (10, 11, 12):
        proc.add(pid, cmdline=b"%d\0" % pid)
    return proc


def execs_of(batch: list[wire.RawEvent]) -> list[int]:
    return [n for n, event in enumerate(batch) if event[5] == EXEC]


def outcomes(batch: list[wire.RawEvent], proc: FakeProc) -> dict[int, object]:
    found = read_execs(batch, execs_of(batch), {}, Reader(Wants(), proc=str(proc.root)), is_behind=False)
    return {n: r.argv if isinstance(r, Reading) else r for n, r in found.items()}


def test_each_exec_is_read(proc: FakeProc) -> None:
    batch = events((FORK, 1, 1, 10, 10), (EXEC, 10, 10), (EXEC, 11, 11), (EXEC, 77, 77))
    assert outcomes(batch, proc) == {1: b"10\0", 2: b"11\0", 3: NotRead.GONE}


def test_what_has_ended_is_not_read(proc: FakeProc) -> None:
    batch = events((EXEC, 10, 10), (EXIT, 10, 10), (EXEC, 11, 11))
    assert outcomes(batch, proc) == {0: NotRead.GONE, 2: b"11\0"}


def test_the_end_of_a_thread_is_not_that_of_the_process(proc: FakeProc) -> None:
    assert outcomes(events((EXEC, 10, 10), (EXIT, 99, 10)), proc) == {0: b"10\0"}


def test_only_the_last_exec_is_read(proc: FakeProc) -> None:
    batch = events((EXEC, 10, 10), (EXEC, 10, 10), (EXEC, 10, 10), (EXIT, 11, 11))
    assert outcomes(batch, proc) == {0: NotRead.EXECED_AGAIN, 1: NotRead.EXECED_AGAIN, 2: b"10\0"}


def test_an_end_before_an_exec_is_another_lifes(proc: FakeProc) -> None:
    batch = events((EXEC, 10, 10), (EXIT, 10, 10), (FORK, 1, 1, 10, 10), (EXEC, 10, 10))
    assert outcomes(batch, proc) == {0: NotRead.GONE, 3: b"10\0"}


def test_what_was_heard_is_not_read_again(proc: FakeProc) -> None:
    batch = events((EXEC, 10, 10), (EXIT, 10, 10), (EXEC, 11, 11))
    early = reading(start=100)
    heard: dict[tuple[int, int], Outcome] = {(10, batch[0][7]): early, (11, 999): early}
    found = read_execs(batch, execs_of(batch), heard, Reader(Wants(), proc=str(proc.root)), is_behind=False)
    assert found[0] is early
    assert found[2] is not early
    assert list(heard) == [(11, 999)]


def test_only_those_asked_for_are_read(proc: FakeProc) -> None:
    batch = events((EXEC, 10, 10), (EXEC, 11, 11))
    found = read_execs(batch, [1], {}, Reader(Wants(), proc=str(proc.root)), is_behind=False)
    assert list(found) == [1]
    late = read_execs(batch, [0, 1], {}, Reader(Wants(), proc=str(proc.root)), is_behind=True)
    assert set(late.values()) == {NotRead.TOO_LATE}


@pytest.mark.parametrize(
    ("what", "at_ns", "outcome"),
    [
        (EXEC, 2_000 + EXEC_MARGIN_NS, "kept"),
        (EXEC, 1_999 + EXEC_MARGIN_NS, NotRead.EXECED_AGAIN),
        (EXEC, 500, NotRead.EXECED_AGAIN),
        (EXIT, 999, NotRead.GONE),
        (EXIT, 1_000, "kept"),
        (EXIT, 5_000, "kept"),
        (FORK, 999, NotRead.GONE),
        (FORK, 999 + FORK_MARGIN_NS, NotRead.GONE),  # read before its FORK was sent
        (FORK, 1_000 + FORK_MARGIN_NS, "kept"),
    ],
)
def test_what_a_later_event_says_of_a_reading(what: int, at_ns: int, outcome: object) -> None:
    read = dataclasses.replace(reading(start=100), begun_ns=1_000, done_ns=2_000)
    others = (wire.encode_event(EXEC, 11, 11), wire.encode_event(EXIT, 77, 10))
    batch = wire.decode(
        b"".join(
            (
                wire.encode_event(EXEC, 10, 10),
                *others,
                wire.encode_event(what, 10, 10, 10, 10, timestamp_ns=at_ns),
            )
        )
    )[0]
    outcomes: dict[int, Outcome] = {0: read}
    settle(batch, outcomes, len(batch))
    assert outcomes == {0: read if outcome == "kept" else outcome}
