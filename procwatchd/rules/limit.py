# SPDX-License-Identifier: MIT
"""What would be logged and is silenced, so that noise costs little and hides nothing else.

Facts:
- Only root names the system units that processes are in. But each login is a scope of its own, and with Accept=yes each
  connection to a socket a service [systemd.socket(5)].
- In user namespaces a user may have many thousands of ids [user_namespaces(7)].

A limit is a bucket: each entry fills it, it drains at the rate, and what would make it overflow is silenced. A rule has
one for each group of events. The one for all is shared, between units, and within a unit between users: everyone who is
active has a bucket of as many entries, and as fast, as is his part of the whole. What fits there is always logged; what
does not, if others leave room. So it is the loudest who is silenced. Whose bucket is empty is active no more.
What a rule found severe has, for each unit, user and rule, a bucket of its own: nobody's noise hides his alarm.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from procwatchd.process.fields import Value
from procwatchd.process.model import Record

# Limits. What has no room is in no rule's limit, and in that of all shares a bucket with others like it.
GROUPS_LIMIT = 1000  # of one rule; and units
USERS_LIMIT = 64  # of one unit; each counts once more for each rule that found something severe
VALUE_LIMIT = 256  # bytes of a value that groups are told apart by; longer ones are by their hash

SUMMARY_NS = 60_000_000_000  # from the first event of a summary to its entry

SEVERE = 4  # warning: what has this priority, or a more severe one

# What the shares of the limit for all look at.
SHARE_NEEDS = frozenset({"UNIT", "SLICE", "UID", "USER_NAMESPACE"})

Group = tuple[Value, ...]


class Rate(NamedTuple):
    """So many events in so long; so many may also come at once."""

    events: int
    period_ns: int

    @property
    def per_ns(self) -> float:
        """Events in a nanosecond."""
        return self.events / self.period_ns


class By(NamedTuple):
    """A field that tells groups apart: as it is written in YAML, its name as in `Template.render`, its value."""

    key: str
    name: str
    get: Callable[[Record], Value]


@dataclass(frozen=True, slots=True, eq=False)
class Suppression:
    """Which events are silenced, and summarised together, once in `every_ns` at most for each group.

    Those over `rate`, or for None all. `rule` is whose it is. With `of_all` it is the limit of all: for what this rule
    decided to be severe, or for None what none did.
    """

    rule: str | None
    by: tuple[By, ...]
    every_ns: int = SUMMARY_NS
    rate: Rate | None = None
    of_all: bool = False


@dataclass(slots=True)
class _Bucket:
    """What is in it, as of when."""

    events: float = 0.0
    at_ns: int = 0

    def drain(self, per_ns: float, now_ns: int) -> float:
        """What is in it now."""
        passed_ns = now_ns - self.at_ns
        if passed_ns > 0:
            left = self.events - passed_ns * per_ns
            self.events = left if left > 0 else 0.0
            self.at_ns = now_ns
        return self.events


_Item = TypeVar("_Item")
# By groups; and for those that have no room.
_Buckets = dict[Hashable, _Bucket]
_OTHERS: Hashable = object()


class Limits:
    """The buckets of all limits, in the time of the events. `shared` counts when a group had no room of its own."""

    def __init__(self) -> None:
        self.shared = 0
        self.configure(None)

    def configure(self, rate: Rate | None) -> None:
        """Begin anew, with this rate for all together."""
        self._rate = rate
        self._of_all: dict[str | None, Suppression] = {}
        self._limit, self._per_ns = (0, 0.0) if rate is None else (rate.events, rate.per_ns)
        self._all = _Bucket()
        self._units: dict[Hashable, _Buckets] = {}
        self._of_rules: dict[Suppression, _Buckets] = {}

    def suppressed(
        self, record: Record, of_rule: Suppression | None, alarm: str | None = None
    ) -> tuple[Suppression, Group] | None:
        """Why a record has no entry, and in which group it is summarised; None where it has one.

        `of_rule` is what the rule says that decided, `alarm` its name where the record is severe, empty where
        none decided.
        """
        if of_rule is not None:
            group = group_of(record, of_rule.by)
            if of_rule.rate is None or self._is_over(of_rule, of_rule.rate, group, record.monotonic_ns):
                return of_rule, group
        if self._rate is not None:
            unit, uid = _unit(record), _uid(record)
            if self._is_over_share(unit, uid, alarm, record.monotonic_ns):
                if alarm not in self._of_all:
                    self._of_all[alarm] = _of_all(self._rate, alarm)
                return self._of_all[alarm], (unit, uid)
        return None

    def _is_over(self, suppression: Suppression, rate: Rate, group: Group, now_ns: int) -> bool:
        buckets = self._of_rules.setdefault(suppression, {})
        bucket = buckets.get(group)
        if bucket is None:
            if len(buckets) >= GROUPS_LIMIT:
                # Others may choose what tells groups apart: who fills the table is not to hide who comes next.
                self.shared += 1
                return False
            bucket = buckets[group] = _Bucket()
        if bucket.drain(rate.per_ns, now_ns) + 1 > rate.events:
            return True
        bucket.events += 1
        return False

    def _is_over_share(self, unit: Value, uid: Value, alarm: str | None, now_ns: int) -> bool:
        users = self._units.get(unit) or self._place(self._units, unit, GROUPS_LIMIT, _Buckets, _OTHERS)
        user = (uid, alarm)
        bucket = users.get(user) or self._place(users, user, USERS_LIMIT, _Bucket, (_OTHERS, alarm))
        sharers = len(self._units) * len(users)
        room = self._limit / sharers
        own = bucket.drain(self._per_ns / sharers, now_ns) + 1
        total = self._all.drain(self._per_ns, now_ns) + 1
        # Everyone has one, now and then, however many there are.
        is_over = own > room and own > 1
        if is_over and total > self._limit:
            return True
        # What is beyond the share nobody else wanted: it is not held against anyone later.
        bucket.events = (room if room > 1 else 1.0) if is_over else own
        self._all.events = total
        return False

    def _place(
        self,
        places: dict[Hashable, _Item],
        key: Hashable,
        limit: int,
        make: Callable[[], _Item],
        others: Hashable,
    ) -> _Item:
        """What there is for a key, or for the others like it where there is no room for more."""
        found = places.get(key)
        if found is None:
            if len(places) >= limit:
                self.shared += 1
                key = others
            found = places.setdefault(key, make())
        return found

    def forget(self, now_ns: int) -> None:
        """Let go of those who were silent for so long that they are as good as new."""
        for suppression, buckets in self._of_rules.items():
            if suppression.rate is not None:
                _forget(buckets, suppression.rate.per_ns, now_ns)
        sharers = len(self._units)
        for unit, users in [*self._units.items()]:
            _forget(users, self._per_ns / (sharers * len(users)), now_ns)
            if not users:
                del self._units[unit]


def _forget(buckets: _Buckets, per_ns: float, now_ns: int) -> None:
    for key in [key for key, bucket in buckets.items() if not bucket.drain(per_ns, now_ns)]:
        del buckets[key]


def group_of(record: Record, by: tuple[By, ...]) -> Group:
    """What tells the group of a record from others."""
    return tuple([_short(one.get(record)) for one in by])


def _short(value: Value) -> Value:
    return hash(value) if isinstance(value, (bytes, str)) and len(value) > VALUE_LIMIT else value


def _of_all(rate: Rate, alarm: str | None) -> Suppression:
    by = (By("unit", "UNIT", _unit), By("uid", "UID", _uid))
    return Suppression(alarm or None, by, max(SUMMARY_NS, rate.period_ns), rate, of_all=True)


def _unit(record: Record) -> bytes | None:
    """The unit; all sessions of a user are one, by their slice."""
    place = record.process.context.place
    if place is None:
        return None
    unit = place.unit
    return place.slice if unit is not None and unit[:8] == b"session-" else unit


def _uid(record: Record) -> int | None:
    """The user; those in another user namespace are one."""
    process = record.process
    if process.creds is None or process.context.user_namespace is not None:
        return None
    return process.creds.uid
