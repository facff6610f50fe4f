# SPDX-License-Identifier: MIT
"""The ledger's arithmetic."""

from __future__ import annotations

from procwatchd.kernel import wire
from procwatchd.ledger import Ledger


def events(*cpu_seq: tuple[int, int]) -> list[wire.RawEvent]:
    return wire.decode(b"".join(wire.encode_event(wire.EXIT, cpu=c, seq=s) for c, s in cpu_seq))[0]


def test_produced_counts_gaps_per_cpu() -> None:
    ledger = Ledger()
    ledger.see(events((0, 10), (1, 500), (0, 11), (1, 501)))
    assert ledger.produced == 4
    ledger.see(events((0, 15)))
    assert ledger.produced == 8
    ledger.see(events((1, 502), (2, 7)))
    assert ledger.produced == 10


def test_produced_over_the_wrap() -> None:
    ledger = Ledger()
    ledger.see(events((0, 0xFFFFFFFF), (0, 0)))
    ledger.see(events((0, 2)))
    assert ledger.produced == 4


def test_the_equations_hold() -> None:
    ledger = Ledger(
        malformed=1, odd=2, foreign=3, unneeded=4, dropped=5, failed=6, lost_kernel=7, lost_queue=8
    )
    terms = ledger.terms(received=100, logged=20, unwritten=9)
    assert terms["RECEIVED"] == sum(
        terms[name] for name in ("MALFORMED", "FOREIGN", "UNNEEDED", "CONSIDERED", "PENDING")
    )
    assert terms["CONSIDERED"] == sum(
        terms[name] for name in ("LOGGED", "DROPPED", "COUNTED", "LIMITED", "UNWRITTEN")
    )
    assert (terms["MALFORMED"], terms["UNWRITTEN"], terms["LOST"]) == (3, 15, 15)
