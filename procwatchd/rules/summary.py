# SPDX-License-Identifier: MIT
"""What was silenced, until there is an entry on it: one for each group, and only when its time is over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from procwatchd.process.model import Process, Record
from procwatchd.rules.limit import By, Group, Suppression

# Limits.
SAMPLES_LIMIT = 5  # of one summary
SUMMARIES_LIMIT = 1000  # of one rule, and of the limit of all; what has no room is summarised together
TEXTS_LIMIT = 8 << 20  # characters of all samples and groups


@dataclass(slots=True)
class Summary:
    """Events that are summarised: `events` of them are datagrams of the connector's, all are `count`.

    `group` is the text of what they have in common, None for those that had no room in a group of their own.
    `priority` is that of the most severe. Times are the kernel's (CLOCK_MONOTONIC).
    """

    suppression: Suppression
    group: str | None
    priority: int
    since_ns: int
    until_ns: int
    count: int = 0
    events: int = 0
    # By the hashes of the arguments.
    samples: dict[int, str] = field(default_factory=dict)

    @property
    def due_ns(self) -> int:
        """When it is to be told."""
        return self.since_ns + self.suppression.every_ns

    def add(self, record: Record, priority: int) -> None:
        """Count one more."""
        self.count += 1
        self.events += not record.found
        self.priority = min(self.priority, priority)
        self.since_ns = min(self.since_ns, record.monotonic_ns)
        self.until_ns = max(self.until_ns, record.monotonic_ns)


class Summaries:
    """The open ones. `command` gives a process's CMDLINE as entries show it, `describe` GROUP.

    `events` is how many datagrams' they are. `shared` counts events that had no room in a group of their own,
    `samples_skipped` samples that had none.
    """

    def __init__(
        self,
        command: Callable[[Process], str | None],
        describe: Callable[[Record, tuple[By, ...]], str],
    ) -> None:
        self.events = 0
        self.shared = 0
        self.samples_skipped = 0
        self._command = command
        self._describe = describe
        self._open: dict[Suppression, dict[Group | None, Summary]] = {}
        self._texts = 0

    @property
    def is_any(self) -> bool:
        """Whether there is something to tell, now or later."""
        return bool(self._open)

    def add(self, record: Record, priority: int, suppression: Suppression, group: Group) -> None:
        """Summarise a record, which has this priority, with those of its group."""
        summary = self._summary(record, priority, suppression, group)
        if len(summary.samples) < SAMPLES_LIMIT:
            self._add_sample(summary, record.process)
        summary.add(record, priority)
        self.events += not record.found

    def _summary(self, record: Record, priority: int, suppression: Suppression, group: Group) -> Summary:
        summaries = self._open.setdefault(suppression, {})
        found = summaries.get(group)
        if found is None and (len(summaries) >= SUMMARIES_LIMIT or self._texts >= TEXTS_LIMIT):
            self.shared += 1
            found = summaries.get(None)
            if found is None:
                found = summaries[None] = _begun(record, priority, suppression, None)
        elif found is None:
            text = self._describe(record, suppression.by)
            self._texts += len(text)
            found = summaries[group] = _begun(record, priority, suppression, text)
        return found

    def _add_sample(self, summary: Summary, process: Process) -> None:
        key = hash(process.image.argv)
        if key in summary.samples:
            return
        text = self._command(process)
        if not text or text in summary.samples.values():
            return
        if self._texts + len(text) > TEXTS_LIMIT:
            self.samples_skipped += 1
            return
        summary.samples[key] = text
        self._texts += len(text)

    def take(self, now_ns: float) -> list[Summary]:
        """Those that are to be told by then, the oldest first; given once."""
        due: list[Summary] = []
        for suppression, summaries in [*self._open.items()]:
            for group in [group for group, summary in summaries.items() if summary.due_ns <= now_ns]:
                due.append(summaries.pop(group))
            if not summaries:
                del self._open[suppression]
        for summary in due:
            self.events -= summary.events
            self._texts -= len(summary.group or "") + sum(map(len, summary.samples.values()))
        return sorted(due, key=lambda summary: summary.since_ns)


def _begun(record: Record, priority: int, suppression: Suppression, group: str | None) -> Summary:
    return Summary(suppression, group, priority, record.monotonic_ns, record.monotonic_ns)
