# SPDX-License-Identifier: MIT
"""Where every datagram of the connector went.

    PRODUCED   = RECEIVED + FILTERED + LOST
    RECEIVED   = MALFORMED + FOREIGN + UNNEEDED + CONSIDERED + PENDING
    CONSIDERED = LOGGED + DROPPED + COUNTED + LIMITED + UNWRITTEN

The terms come from different places, so that the equations can fail: PRODUCED from the kernel's sequence numbers, LOST
from the socket's drop counter and the queue, RECEIVED from what was decoded, the rest from where each event ended.
While the kernel filters, what it rejected shows in the numbers alone: FILTERED is what is missing there beyond what was
lost, so that the first equation can fail only by too few. An event that the kernel had no memory for is FILTERED then,
too: without a filter it is LOST, as whatever is missing and in no counter.

Two things the numbers cannot show are produced all the same: what others sent (FOREIGN), and what was dropped after the
last datagram of its CPU, until the next one of that CPU tells.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from procwatchd.kernel.sequence import Gap, Sequences
from procwatchd.kernel.wire import RawEvent


@dataclass(slots=True)
class Ledger:
    """The worker's counts, in datagrams, since the start. One thread changes them."""

    decoded: int = 0
    malformed: int = 0
    odd: int = 0  # of MALFORMED: not of an event's size
    foreign: int = 0
    unneeded: int = 0
    unknown: int = 0  # of UNNEEDED: types that this version does not know
    dropped: int = 0
    counted: int = 0  # told in summaries that are written, as are those LIMITED
    limited: int = 0
    failed: int = 0  # of UNWRITTEN: an error of ours came between
    lost_kernel: int = 0
    lost_kernel_uncounted: int = 0  # shown by the numbers alone
    lost_queue: int = 0
    lost_in_hand: int = 0  # by whoever ran before us and was killed; in no number of ours
    filtered: int = 0
    forks: int = 0  # worked off, of processes and threads
    sequences: Sequences = field(default_factory=Sequences)
    # Since when nothing is rejected; None while something may be, or may have been by whoever had the socket before.
    _unfiltered_since_ns: int | None = 0

    def see(self, events: list[RawEvent]) -> list[Gap]:
        """Take in what was decoded, in order; gives what is missing between."""
        self.decoded += len(events)
        return self.sequences.follow(events)

    def is_taken_over(self) -> None:
        """What comes first was sent to whoever ran before us: who knows what was rejected of that."""
        self._unfiltered_since_ns = None

    def set_filter(self, *, is_on: bool, now_ns: int) -> None:
        """Whether the kernel rejects anything from now on."""
        if is_on:
            self._unfiltered_since_ns = None
        elif self._unfiltered_since_ns is None:
            self._unfiltered_since_ns = now_ns

    def may_be_filtered(self, gap: Gap) -> bool:
        """Whether what is missing there may have been rejected."""
        return self._unfiltered_since_ns is None or gap.since_ns < self._unfiltered_since_ns

    def explain(self, gaps: list[Gap]) -> int:
        """Account for gaps that `see` gave, after what was lost by then; gives how many events nothing explains."""
        unexplained = self.uncounted
        possible = sum(gap.missing for gap in gaps if self.may_be_filtered(gap))
        rejected = min(unexplained, possible)
        self.filtered += rejected
        self.lost_kernel_uncounted += unexplained - rejected
        return unexplained - rejected

    @property
    def lost(self) -> int:
        """What the socket or the queue had no room for."""
        return self.lost_kernel + self.lost_kernel_uncounted + self.lost_queue

    @property
    def unlocated(self) -> int:
        """Of what was lost, what the sequence numbers do not show yet; with a filter, as far as that can be told."""
        return max(0, self.lost + self.filtered - self._shown)

    @property
    def uncounted(self) -> int:
        """Of what the sequence numbers show to be missing, what no counter has."""
        return max(0, self._shown - self.lost - self.filtered)

    @property
    def _shown(self) -> int:
        return self.sequences.missing - self.malformed - self.odd

    def told(self, events: int, *, is_counted: bool) -> None:
        """The summary of so many is written that were silenced, by a rule that counts or by a limit."""
        if is_counted:
            self.counted += events
        else:
            self.limited += events

    @property
    def summarised(self) -> int:
        """How many the summaries stand for that are written."""
        return self.counted + self.limited

    def terms(self, *, logged: int, unwritten: int, pending: int, waiting: int = 0) -> dict[str, int]:
        """The terms of the three equations; `pending` is what is neither sorted nor written yet.

        `waiting` is what was sorted as unneeded and may turn out to be needed: it is pending, too.
        """
        malformed = self.malformed + self.odd
        unwritten += self.failed
        return {
            "PRODUCED": self.sequences.produced + self.foreign + self.unlocated + self.lost_in_hand,
            "RECEIVED": self.decoded + malformed + self.foreign,
            "FILTERED": self.filtered,
            "LOST": self.lost + self.lost_in_hand,
            "MALFORMED": malformed,
            "FOREIGN": self.foreign,
            "UNNEEDED": self.unneeded - waiting,
            "CONSIDERED": logged + self.dropped + self.counted + self.limited + unwritten,
            "PENDING": pending + waiting,
            "LOGGED": logged,
            "DROPPED": self.dropped,
            "COUNTED": self.counted,
            "LIMITED": self.limited,
            "UNWRITTEN": unwritten,
        }
