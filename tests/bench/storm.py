# SPDX-License-Identifier: MIT
"""Storms of vforks or threads: what of them is received, and what is lost.

The truth is what the storm's workers made. Each vfork or thread is two events, FORK and EXIT.

The shipped configuration drops, by rule, what was forked and ended well without an exec: so DROPPED is the number
of the storm's processes that were seen from beginning to end, and of whatever others there were of that kind.
Others are bounded by the kernel's own count of all forks. Of threads the daemon need not be told: the truth is then
that the kernel produced at least their events.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.load import BenchError, Load, forks_of_the_machine
from tests.bench.measured import PATIENCE_SECONDS, Measured, extrace, forkstat, procwatchd
from tests.bench.table import Row, Table

_PREFIX = "PROCWATCH_"
_TERMS = (
    *("PRODUCED", "RECEIVED", "FILTERED", "LOST", "UNLOCATED"),
    *("MALFORMED", "FOREIGN", "UNNEEDED", "CONSIDERED", "PENDING"),
    *("LOGGED", "DROPPED", "COUNTED", "LIMITED", "UNWRITTEN"),
)
# Nothing is dropped: each process's end is an entry.
VFORKS = "vforks, an entry for each exit"
THREADS = "threads, as shipped"
EVERY_EXIT = "capture: {events: [exec, exit]}"

PEERS: dict[str, Callable[[], AbstractContextManager[Measured]]] = {
    "forkstat": lambda: forkstat("-e", "fork,exit"),
    "forkstat -r": lambda: forkstat("-r", "-e", "fork,exit"),
    "extrace": extrace,
}


@dataclass(frozen=True, slots=True)
class DaemonStorm:
    """A storm as procwatchd saw it.

    `terms` is the ledger at its stop. `other_forks` were made by others in that time. `behind_seconds` is how long it
    went on working after the storm's end, None where it did not come to an end in time.
    """

    name: str
    seconds: float
    made: int
    other_forks: int
    terms: dict[str, int]
    behind_seconds: float | None
    peak_kib: int
    unexplained: int

    @property
    def lost(self) -> int:
        """The events, of anybody, that were lost on their way or could not be written."""
        return self.terms["LOST"] + self.terms["UNWRITTEN"]

    @property
    def is_exact(self) -> bool:
        """Whether the ledger's equations hold, with nothing left over, and agree with what was made."""
        terms = self.terms
        received = ("MALFORMED", "FOREIGN", "UNNEEDED", "CONSIDERED", "PENDING")
        considered = ("LOGGED", "DROPPED", "COUNTED", "LIMITED", "UNWRITTEN")
        return (
            terms["PRODUCED"] == terms["RECEIVED"] + terms["FILTERED"] + terms["LOST"]
            and terms["RECEIVED"] == sum(terms[term] for term in received)
            and terms["CONSIDERED"] == sum(terms[term] for term in considered)
            and terms["PENDING"] == terms["UNLOCATED"] == self.unexplained == 0
        )


@dataclass(frozen=True, slots=True)
class PeerStorm:
    """A storm as another program saw it: `drops` are the events that its socket had no room for, of anybody."""

    made: int
    drops: int

    @property
    def lost_share(self) -> float:
        """The share of the storm's events."""
        return self.drops / max(1, 2 * self.made)


@dataclass(frozen=True, slots=True)
class Storms:
    """The storms on procwatchd, and by the same names and the program's those on the others."""

    daemon: list[DaemonStorm]
    peers: dict[str, dict[str, PeerStorm]]
    peer_seconds: float


def measure(load: Load, *, seconds: float, peer_seconds: float, say: Callable[[str], None]) -> Storms:
    """Let the storms loose on each program in turn."""
    say("storms: procwatchd")
    daemon = [
        _measure_daemon(load, "vforks, as shipped", seconds, "vfork"),
        _measure_daemon(load, VFORKS, seconds, "vfork", EVERY_EXIT),
        _measure_daemon(load, THREADS, seconds, "thread"),
    ]
    peers: dict[str, dict[str, PeerStorm]] = {}
    # The others print what they are told, and so are beside what has an entry for each.
    for name, kind in ((VFORKS, "vfork"), (THREADS, "thread")):
        say(f"storms: {', '.join(PEERS)}: {kind}s")
        peers[name] = {peer: _measure_peer(load, start, kind, peer_seconds) for peer, start in PEERS.items()}
    return Storms(daemon, peers, peer_seconds)


def _measure_daemon(
    load: Load, name: str, seconds: float, kind: str, configuration: str | None = None
) -> DaemonStorm:
    others_before = forks_of_the_machine()
    with procwatchd(configuration) as daemon:
        made = load.storm(seconds, kind).total
        behind_seconds = daemon.wait_until_quiet(PATIENCE_SECONDS)
        peak_kib = daemon.memory_kib("VmHWM")
        daemon.stop()
        terms = read_terms(daemon.output)
    others = forks_of_the_machine() - others_before - made
    if kind == "thread":
        unexplained = min(0, terms["PRODUCED"] - 2 * made)
    else:
        unexplained = _unexplained(terms["LOGGED" if configuration else "DROPPED"] - made, others)
    return DaemonStorm(name, seconds, made, others, terms, behind_seconds, peak_kib, unexplained)


def _unexplained(surplus: int, others: int) -> int:
    """How many processes too few (negative) or more than the others can account for were seen; 0 is right.

    Of a process of somebody else's at most an exec and an exit are among them.
    """
    return min(surplus, 0) or max(surplus - 2 * others, 0)


def _measure_peer(
    load: Load, start: Callable[[], AbstractContextManager[Measured]], kind: str, seconds: float
) -> PeerStorm:
    with start() as program:
        made = load.storm(seconds, kind).total
        program.wait_until_quiet()
        return PeerStorm(made, program.drops())


def read_terms(output: Path) -> dict[str, int]:
    """The ledger in the stop entry, the last that the daemon writes."""
    with output.open("rb") as lines:
        for line in lines:
            if b'"stop"' in line and (entry := json.loads(line)).get(_PREFIX + "EVENT") == "stop":
                return {name: int(entry[_PREFIX + name]) for name in _TERMS}
    raise BenchError("procwatchd wrote no stop entry")


def table(storms: Storms) -> Table:
    """Who lost how much, and whether procwatchd's ledger is exact."""
    rows = [row for storm in storms.daemon for row in _rows(storm, storms.peers.get(storm.name, {}))]
    note = f"the others' storms lasted {storms.peer_seconds:g} s each; their losses by the kernel's count"
    seconds = storms.daemon[0].seconds
    return Table(f"storms of two workers, {seconds:g} s", ("procwatchd", *PEERS), rows, (note,))


def _rows(storm: DaemonStorm, peers: dict[str, PeerStorm]) -> list[Row]:
    terms = ", ".join(f"{name} {value:,}" for name, value in storm.terms.items())
    behind = "never" if storm.behind_seconds is None else f"{storm.behind_seconds:.1f} s"
    nothing = ("",) * len(PEERS)
    lost = tuple(f"{one.drops:,} = {one.lost_share:.1%}" for one in peers.values()) or nothing
    return [
        Row(f"{storm.name}: events a second", (f"{2 * storm.made / storm.seconds:,.0f}", *nothing)),
        Row("  lost", (f"{storm.lost:,}", *lost), "0", storm.lost == 0, (terms,)),
        Row(
            "  ledger",
            ("exact" if storm.is_exact else "not exact", *nothing),
            "exact",
            storm.is_exact,
            (
                f"made {storm.made:,}, unexplained {storm.unexplained:+,}; others forked {storm.other_forks:,}",
            ),
        ),
        Row(
            "  until it was worked off; RSS at most", (f"{behind}; {storm.peak_kib / 1024:.0f} MiB", *nothing)
        ),
    ]
