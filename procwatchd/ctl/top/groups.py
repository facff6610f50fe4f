# SPDX-License-Identifier: MIT
"""Processes counted by a name that they have in common: an executable, a unit, whoever killed them.

Anybody can make as many names as he likes, so a table keeps a limited number of them. Where it is full, those are
forgotten that are first in no ranking: what is seen often, or takes much, stays, and its line is short at most by what
was forgotten of it before, which is counted. Of lifetimes only what they are to a sixteenth is kept, for the median.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Generic, TypeAlias, TypeVar

# Limits.
NAMES_LIMIT = 1 << 14  # names in a table

# Steps of a lifetime between two powers of two, as a power of two.
_STEPS_BITS = 3
_STEPS = 1 << _STEPS_BITS


@dataclass(slots=True, eq=False)
class Group:
    """What the processes of one name did: programs they started, and what is known of those that ended."""

    starts: int = 0
    lives: int = 0
    failed: int = 0
    unknown_ends: int = 0
    cpu_usec: int = 0
    cpu_lives: int = 0
    memory_peak: int = 0
    memory_bytes: int = 0
    memory_lives: int = 0
    lifetimes: Counter[int] = field(default_factory=Counter)

    def end(self, cpu_usec: int | None, memory_peak: int | None, *, has_failed: bool | None) -> None:
        """Take in that one has ended; `has_failed` is None where nobody knows how."""
        self.lives += 1
        self.failed += has_failed is True
        self.unknown_ends += has_failed is None
        if cpu_usec is not None:
            self.cpu_usec += cpu_usec
            self.cpu_lives += 1
        if memory_peak is not None:
            self.memory_bytes += memory_peak
            self.memory_lives += 1
            self.memory_peak = max(self.memory_peak, memory_peak)

    def add(self, other: Group) -> None:
        """Take in what another one did."""
        self.starts += other.starts
        self.lives += other.lives
        self.failed += other.failed
        self.unknown_ends += other.unknown_ends
        self.cpu_usec += other.cpu_usec
        self.cpu_lives += other.cpu_lives
        self.memory_peak = max(self.memory_peak, other.memory_peak)
        self.memory_bytes += other.memory_bytes
        self.memory_lives += other.memory_lives
        self.lifetimes.update(other.lifetimes)

    @property
    def known_cpu_usec(self) -> int | None:
        """Of those that told; None where none did."""
        return self.cpu_usec if self.cpu_lives else None

    @property
    def known_memory_peak(self) -> int | None:
        """The same of the most memory."""
        return self.memory_peak if self.memory_lives else None

    @property
    def mean_cpu_usec(self) -> int | None:
        """By process; of those that told."""
        return self.cpu_usec // self.cpu_lives if self.cpu_lives else None

    @property
    def mean_memory(self) -> int | None:
        """The mean of their peaks."""
        return self.memory_bytes // self.memory_lives if self.memory_lives else None

    @property
    def known_lifetimes(self) -> int:
        """Of how many it is known how long they lived."""
        return self.lifetimes.total()

    @property
    def median_usec(self) -> int:
        """How long the one in the middle lived, to a sixteenth; 0 where that is known of none."""
        left = self.known_lifetimes // 2
        for step in sorted(self.lifetimes):
            left -= self.lifetimes[step]
            if left < 0:
                return _middle(step)
        return 0


def step_of(usec: int) -> int:
    """The step that a lifetime is in."""
    shift = usec.bit_length() - _STEPS_BITS - 1
    return usec if shift <= 0 else (shift << _STEPS_BITS) + (usec >> shift)


def _middle(step: int) -> int:
    if step < 2 * _STEPS:
        return step
    shift = (step >> _STEPS_BITS) - 1
    return ((step % _STEPS + _STEPS) << shift) + (1 << shift - 1)


Key = TypeVar("Key", bound=Hashable)
Rank: TypeAlias = Callable[[Group], int]

BY_STARTS: Rank = attrgetter("starts")
BY_LIVES: Rank = attrgetter("lives")
BY_CPU: Rank = attrgetter("cpu_usec")
BY_MEMORY: Rank = attrgetter("memory_peak")
_RANKS = (BY_STARTS, BY_LIVES, BY_CPU, BY_MEMORY)


class Groups(Generic[Key]):
    """Groups by name; `forgotten` is how many starts and lives were of names that are there no more."""

    def __init__(self, limit: int = NAMES_LIMIT) -> None:
        self.forgotten = 0
        self._limit = limit
        self._groups: dict[Key, Group] = {}

    def __len__(self) -> int:
        """How many names there are."""
        return len(self._groups)

    def of(self, name: Key) -> Group:
        """The group of that name."""
        found = self._groups.get(name)
        if found is None:
            if len(self._groups) >= self._limit:
                self._forget()
            found = self._groups[name] = Group()
        return found

    def add(self, others: Groups[Key]) -> None:
        """Take in what others counted."""
        self.forgotten += others.forgotten
        for name, group in others._groups.items():
            self.of(name).add(group)

    def most(self, rank: Rank, count: int) -> list[tuple[Key, Group]]:
        """The first of a ranking, without those that are nothing in it."""
        first = heapq.nlargest(count, self._groups.items(), key=lambda item: rank(item[1]))
        return [(name, group) for name, group in first if rank(group)]

    def shortest(self, count: int, lives: int) -> list[tuple[Key, Group]]:
        """Those whose lives were the shortest in the middle, of those with at least so many."""
        many = (item for item in self._groups.items() if item[1].known_lifetimes >= lives)
        return heapq.nsmallest(count, many, key=lambda item: (item[1].median_usec, -item[1].lives))

    def _forget(self) -> None:
        """Keep those that are first in some ranking, at most half of them."""
        each = max(1, self._limit // (2 * len(_RANKS)))
        kept = dict(item for rank in _RANKS for item in self.most(rank, each))
        gone = (group for name, group in self._groups.items() if name not in kept)
        self.forgotten += sum(group.starts + group.lives for group in gone)
        self._groups = kept
