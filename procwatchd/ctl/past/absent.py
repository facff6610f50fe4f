# SPDX-License-Identifier: MIT
"""What the daemon's own entries say of events that have no entry: dropped, summarised, lost."""

from __future__ import annotations

from collections import Counter

from procwatchd.ctl.past.entries import Entry, full_text_of, number, realtime_usec, text_of

# Entries that tell of it, and those after which the daemon's account begins anew.
KINDS = ("loss", "blind", "summary", "statistics", "start", "stop")

# Limits.
BOOTS_LIMIT = 4096  # machines' accounts that are followed
SPANS_LIMIT = 4096  # times that nobody listened

# What is lost there is no event [procwatchd.fields(7)].
_RECORDS = frozenset({"accounting", "recorder"})
_PLACES = _RECORDS | {"kernel", "queue", "restart", "journal", "worker"}


class Absent:
    """Adds it up: `dropped`, `summarised`, `lost`, by LOST_WHERE, and `missed`, forks in blindnesses.

    `dropped` is by the daemon's accounts, which come every few minutes: only what is between two of them is known, so
    it is at least so many, from `dropped_since_usec` to `dropped_until_usec`; None where there are no two.
    """

    def __init__(self, after: Absent | None = None) -> None:
        self.dropped: int | None = None
        self.summarised = 0
        self._missed: int | None = None
        self._blind_begun = 0
        self._blind_over = 0
        self.lost: Counter[str] = Counter()
        self.dropped_since_usec: int | None = None
        self.dropped_until_usec: int | None = None
        # Each machine's last account, and of when it is: what was dropped before is not of this time.
        self.dropped_before: dict[tuple[str, str], tuple[int, int]] = (
            {} if after is None else after.dropped_before
        )
        # When the daemon was stopped on each machine, and not started again since.
        self.stopped: dict[str, int] = {} if after is None else after.stopped
        self._unheard: list[tuple[int, int]] = []

    @property
    def lost_events(self) -> int:
        """How many events and entries were lost."""
        return sum(count for where, count in self.lost.items() if where not in _RECORDS)

    @property
    def blind(self) -> int:
        """How often the kernel told of nothing."""
        return max(self._blind_begun, self._blind_over)

    @property
    def missed(self) -> int | None:
        """How many forks it did not tell of, as far as that is known; None where it is not."""
        return 0 if self._missed is None and not self.blind else self._missed

    def take(self, kind: str, entry: Entry) -> None:
        """Learn from an entry of this kind."""
        if kind == "summary":
            self.summarised += number(entry, "COUNT") or 0
        elif kind == "loss":
            where = text_of(entry, "LOST_WHERE")
            self.lost[where if where in _PLACES else "elsewhere"] += number(entry, "COUNT") or 0
        elif kind == "blind":
            self._take_blind(entry)
        elif kind in ("start", "stop"):
            self._take_run(entry, is_over=kind == "stop")
        dropped = 0 if kind == "start" else number(entry, "DROPPED")
        if dropped is not None:
            self._take_account(entry, dropped, is_new=kind == "start")

    def add(self, other: Absent) -> None:
        """Take in what another one added up."""
        if other.dropped is not None:
            self._add_dropped(other.dropped, other.dropped_since_usec or 0, other.dropped_until_usec or 0)
        self.summarised += other.summarised
        self._add_missed(other._missed)
        self._blind_begun += other._blind_begun
        self._blind_over += other._blind_over
        self.lost.update(other.lost)
        self._unheard = (self._unheard + other._unheard)[:SPANS_LIMIT]

    def not_running_usec(self, since_usec: int | None, until_usec: int | None) -> int:
        """For how long in that time nobody listened, on all machines together, as far as entries tell."""
        if since_usec is None or until_usec is None:
            return 0
        spans = self._unheard + [(stopped, until_usec) for stopped in self.stopped.values()]
        return sum(max(0, min(until, until_usec) - max(since, since_usec)) for since, until in spans)

    def _take_run(self, entry: Entry, *, is_over: bool) -> None:
        """The daemon was stopped, or started: then it says since when nobody listened, if somebody had."""
        machine, when = _machine_of(entry)[0], realtime_usec(entry)
        self.stopped.pop(machine, None)
        if when is None:
            return
        if is_over:
            if len(self.stopped) < BOOTS_LIMIT:
                self.stopped[machine] = when
            return
        now, since, until = (number(entry, name) for name in ("MONOTONIC_USEC", "SINCE_USEC", "UNTIL_USEC"))
        if now is not None and since is not None and until is not None and len(self._unheard) < SPANS_LIMIT:
            self._unheard.append((when - now + since, when - now + until))

    def _take_blind(self, entry: Entry) -> None:
        is_over = "PROCWATCH_UNTIL_USEC" in entry
        self._blind_over += is_over
        self._blind_begun += not is_over
        self._add_missed(number(entry, "COUNT"))

    def _add_missed(self, count: int | None) -> None:
        if count is not None:
            self._missed = (self._missed or 0) + count

    def _take_account(self, entry: Entry, dropped: int, *, is_new: bool) -> None:
        """What a machine's daemon has dropped since it was started."""
        machine = _machine_of(entry)
        when = realtime_usec(entry) or 0
        before, since = self.dropped_before.pop(machine, (None, 0))
        if before is not None and not is_new:
            # Less than before: it was started again, and nothing tells.
            self._add_dropped(dropped - before if dropped >= before else dropped, since, when)
        if len(self.dropped_before) >= BOOTS_LIMIT:
            del self.dropped_before[next(iter(self.dropped_before))]
        self.dropped_before[machine] = (dropped, when)

    def _add_dropped(self, count: int, since_usec: int, until_usec: int) -> None:
        self.dropped = (self.dropped or 0) + count
        self.dropped_since_usec = min(since_usec, self.dropped_since_usec or since_usec)
        self.dropped_until_usec = max(until_usec, self.dropped_until_usec or until_usec)


def _machine_of(entry: Entry) -> tuple[str, str]:
    """Which machine, and which boot of it."""
    name = full_text_of(entry, "_MACHINE_ID") or full_text_of(entry, "_HOSTNAME")
    return name, full_text_of(entry, "_BOOT_ID")
