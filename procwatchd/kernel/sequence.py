# SPDX-License-Identifier: MIT
"""How many events the kernel produced, by its own numbering, and where some are missing.

Facts:
- `seq` is one counter per CPU, raised for every event and every ACK, whoever gets it, also where a socket had no room
  for it; on one CPU datagrams arrive in its order [drivers/connector/cn_proc.c, send_msg()].
- It stands still while the kernel counts no listener.
"""

from __future__ import annotations

from collections import Counter
from operator import itemgetter
from typing import NamedTuple

from procwatchd.kernel.wire import RawEvent

_MODULUS = 1 << 32
_cpu = itemgetter(6)


class Gap(NamedTuple):
    """Datagrams of one CPU that did not come: how many, and between which two that did (CLOCK_MONOTONIC)."""

    cpu: int
    missing: int
    since_ns: int
    until_ns: int


class Sequences:
    """Follows the numbers of all CPUs, from the first datagram that was seen of each.

    `produced` is how many datagrams there were since, `missing` how many of these did not come.
    """

    KEPT = ("_last",)

    def __init__(self) -> None:
        self.produced = 0
        self.missing = 0
        # The number and the time of the last datagram of each CPU.
        self._last: dict[int, tuple[int, int]] = {}

    def follow(self, events: list[RawEvent]) -> list[Gap]:
        """Take in what arrived, in order; gives the gaps that it shows."""
        with_gaps: dict[int, tuple[int, int]] = {}
        newest = {event[6]: event for event in events}
        for cpu, count in Counter(map(_cpu, events)).items():
            end = newest[cpu]
            last = self._last.get(cpu)
            if last is None:
                first = next(event for event in events if event[6] == cpu)
                last = (first[2] - 1, first[7])
            grown = (end[2] - last[0]) % _MODULUS
            self.produced += grown
            if grown != count:
                with_gaps[cpu] = last
            self._last[cpu] = (end[2], end[7])
        gaps = _locate(with_gaps, events) if with_gaps else []
        self.missing += sum(gap.missing for gap in gaps)
        return gaps


def _locate(last: dict[int, tuple[int, int]], events: list[RawEvent]) -> list[Gap]:
    """The gaps of the CPUs that have any, each with the number and the time of what came last before."""
    gaps = []
    for event in events:
        cpu = event[6]
        before = last.get(cpu)
        if before is not None:
            count = (event[2] - before[0] - 1) % _MODULUS
            if count:
                gaps.append(Gap(cpu, count, before[1], event[7]))
            last[cpu] = (event[2], event[7])
    return gaps
