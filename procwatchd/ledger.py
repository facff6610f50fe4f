# SPDX-License-Identifier: MIT
"""Where every datagram of the connector went.

    PRODUCED   = RECEIVED + FILTERED + LOST
    RECEIVED   = MALFORMED + FOREIGN + UNNEEDED + CONSIDERED + PENDING
    CONSIDERED = LOGGED + DROPPED + COUNTED + LIMITED + UNWRITTEN

PRODUCED comes from the kernel's per-CPU sequence numbers, from the first that was seen of each CPU.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from procwatchd.kernel.wire import RawEvent

_SEQ_MODULUS = 1 << 32


@dataclass(slots=True)
class Ledger:
    """The worker's counts, in datagrams, since the start. One thread changes them."""

    malformed: int = 0
    odd: int = 0  # of MALFORMED: not of an event's size
    foreign: int = 0
    unneeded: int = 0
    unknown: int = 0  # of UNNEEDED: types that this version does not know
    dropped: int = 0
    counted: int = 0
    limited: int = 0
    failed: int = 0  # of UNWRITTEN: an error of ours came between
    lost_kernel: int = 0
    lost_queue: int = 0
    produced: int = 0
    _last_seq: dict[int, int] = field(default_factory=dict)

    def see(self, events: list[RawEvent]) -> None:
        """Follow the sequence numbers of a batch."""
        last_seq = self._last_seq
        for cpu, seq in {event[6]: event[2] for event in events}.items():
            if cpu in last_seq:
                self.produced += (seq - last_seq[cpu]) % _SEQ_MODULUS
            else:
                first = next(event[2] for event in events if event[6] == cpu)
                self.produced += (seq - first) % _SEQ_MODULUS + 1
            last_seq[cpu] = seq

    def terms(self, *, received: int, logged: int, unwritten: int) -> dict[str, int]:
        """The terms of the three equations. What is neither sorted nor written yet is PENDING."""
        malformed = self.malformed + self.odd
        unwritten += self.failed
        considered = logged + self.dropped + self.counted + self.limited + unwritten
        return {
            "PRODUCED": self.produced,
            "RECEIVED": received,
            "FILTERED": 0,
            "LOST": self.lost_kernel + self.lost_queue,
            "MALFORMED": malformed,
            "FOREIGN": self.foreign,
            "UNNEEDED": self.unneeded,
            "CONSIDERED": considered,
            "PENDING": received - malformed - self.foreign - self.unneeded - considered,
            "LOGGED": logged,
            "DROPPED": self.dropped,
            "COUNTED": self.counted,
            "LIMITED": self.limited,
            "UNWRITTEN": unwritten,
        }
