# SPDX-License-Identifier: MIT
"""The ledger's arithmetic, and the kernel's numbers behind it."""

from __future__ import annotations

from procwatchd.kernel import wire
from procwatchd.kernel.sequence import Gap, Sequences
from procwatchd.ledger import Ledger


def events(*cpu_seq: tuple[int, int]) -> list[wire.RawEvent]:
    """EXITs with these numbers; each a microsecond after the one before."""
    datagrams = [
        wire.encode_event(wire.EXIT, cpu=cpu, seq=seq, timestamp_ns=1000 * n)
        for n, (cpu, seq) in enumerate(cpu_seq)
    ]
    return wire.decode(b"".join(datagrams))[0]


def test_produced_counts_gaps_per_cpu() -> None:
    sequences = Sequences()
    assert sequences.follow(events((0, 10), (1, 500), (0, 11), (1, 501))) == []
    assert (sequences.produced, sequences.missing) == (4, 0)
    assert sequences.follow(events((0, 15))) == [Gap(0, 3, 2000, 0)]
    assert (sequences.produced, sequences.missing) == (8, 3)
    assert sequences.follow(events((1, 502), (2, 7))) == []
    assert (sequences.produced, sequences.missing) == (10, 3)


def test_a_gap_is_between_two_events_of_its_cpu() -> None:
    gaps = Sequences().follow(events((0, 1), (1, 1), (0, 4), (1, 2), (0, 5), (0, 7)))
    assert gaps == [Gap(0, 2, 0, 2000), Gap(0, 1, 4000, 5000)]


def test_produced_over_the_wrap() -> None:
    sequences = Sequences()
    assert sequences.follow(events((0, 0xFFFFFFFF), (0, 0))) == []
    assert [gap.missing for gap in sequences.follow(events((0, 2)))] == [1]
    assert sequences.produced == 4


def test_the_equations_hold() -> None:
    ledger = Ledger(foreign=3, unneeded=4, dropped=5, failed=6, lost_kernel=7, lost_queue=8)
    # One datagram is malformed, two are odd: their numbers are missing, as are those of twelve of the fifteen lost.
    ledger.see(events(*((0, n) for n in range(50))))
    ledger.see(events((0, 50 + 15)))
    ledger.malformed, ledger.odd = 1, 2
    pending = 51 + 3 + 3 - 3 - 3 - 4 - (20 + 5 + 6 + 9)
    terms = ledger.terms(logged=20, unwritten=9, pending=pending)
    assert terms["PRODUCED"] == terms["RECEIVED"] + terms["FILTERED"] + terms["LOST"]
    assert terms["RECEIVED"] == sum(
        terms[name] for name in ("MALFORMED", "FOREIGN", "UNNEEDED", "CONSIDERED", "PENDING")
    )
    assert terms["CONSIDERED"] == sum(
        terms[name] for name in ("LOGGED", "DROPPED", "COUNTED", "LIMITED", "UNWRITTEN")
    )
    assert (terms["MALFORMED"], terms["UNWRITTEN"], terms["LOST"]) == (3, 15, 15)
    assert ledger.unlocated == 15 - 12


def test_what_no_counter_tells_breaks_the_first_equation() -> None:
    ledger = Ledger()
    ledger.see(events((0, 1), (0, 3)))
    terms = ledger.terms(logged=0, unwritten=0, pending=2)
    assert terms["PRODUCED"] == terms["RECEIVED"] + 1
    ledger.lost_kernel = 1
    terms = ledger.terms(logged=0, unwritten=0, pending=2)
    assert terms["PRODUCED"] == terms["RECEIVED"] + terms["LOST"] == 3


def balance(ledger: Ledger, pending: int) -> int:
    """What the first equation lacks."""
    terms = ledger.terms(logged=0, unwritten=0, pending=pending)
    return terms["PRODUCED"] - terms["RECEIVED"] - terms["FILTERED"] - terms["LOST"]


def test_with_a_filter_what_no_counter_has_was_rejected() -> None:
    ledger = Ledger()
    ledger.set_filter(is_on=True, now_ns=0)
    assert ledger.explain(ledger.see(events((0, 1), (0, 11), (1, 1), (1, 3)))) == 0
    assert (ledger.filtered, ledger.lost, ledger.unlocated, balance(ledger, 4)) == (10, 0, 0, 0)


def test_what_was_lost_is_not_what_was_rejected() -> None:
    ledger = Ledger(lost_kernel=4)
    ledger.set_filter(is_on=True, now_ns=0)
    assert ledger.explain(ledger.see(events((0, 1), (0, 4)))) == 0
    assert (ledger.filtered, ledger.unlocated, balance(ledger, 2)) == (0, 2, 0)
    assert ledger.explain(ledger.see(events((0, 10)))) == 0
    assert (ledger.filtered, ledger.unlocated, balance(ledger, 3)) == (3, 0, 0)
    # It never becomes less: what is lost later shows later.
    ledger.lost_kernel = 6
    assert (ledger.filtered, ledger.unlocated, balance(ledger, 3)) == (3, 2, 0)


def test_without_a_filter_what_no_counter_has_was_lost() -> None:
    ledger = Ledger()
    assert ledger.explain(ledger.see(events((0, 1), (0, 4)))) == 2
    assert (ledger.filtered, ledger.lost_kernel_uncounted, balance(ledger, 2)) == (0, 2, 0)


def test_what_was_rejected_may_show_after_the_filter_is_gone() -> None:
    ledger = Ledger()
    ledger.set_filter(is_on=True, now_ns=0)
    ledger.see(events((0, 1), (1, 1)))
    ledger.set_filter(is_on=False, now_ns=5000)
    later = [(*event[:7], 9000, *event[8:]) for event in events((0, 4), (1, 2))]
    assert ledger.explain(ledger.see(later)) == 0
    assert ledger.filtered == 2
    # What is missing since is none of it.
    ledger.set_filter(is_on=False, now_ns=99_000)
    latest = [(*event[:7], 10_000, *event[8:]) for event in events((0, 6))]
    assert ledger.explain(ledger.see(latest)) == 1
    assert (ledger.filtered, ledger.lost_kernel_uncounted, balance(ledger, 5)) == (2, 1, 0)


def test_what_may_be_needed_yet_is_pending() -> None:
    ledger = Ledger(unneeded=5)
    terms = ledger.terms(logged=0, unwritten=0, pending=1, waiting=2)
    assert (terms["UNNEEDED"], terms["PENDING"]) == (3, 3)
