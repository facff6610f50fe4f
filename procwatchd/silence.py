# SPDX-License-Identifier: MIT
"""What is silenced, and how that is told: nothing without an entry on how much it was.

Its entry comes when the time of its group is over, before other rules begin to hold, and at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from procwatchd.journal.build import EntryBuilder
from procwatchd.journal.entry import Entry
from procwatchd.journal.message import summary_message
from procwatchd.ledger import Ledger
from procwatchd.process.model import Record
from procwatchd.rules.limit import SEVERE, Limits, Rate
from procwatchd.rules.ruleset import Decision
from procwatchd.rules.summary import Summaries, Summary


class Silence:
    """Silences by rules that count, and by limits. One thread uses it; `builder` gives what makes entries now.

    What was silenced is COUNTED or LIMITED once it is told of, until then it is pending: `events` of it are here.
    """

    def __init__(
        self,
        ledger: Ledger,
        write: Callable[[Entry], None],
        builder: Callable[[], EntryBuilder],
        tell_failure: Callable[[str, int], None],
    ) -> None:
        self._ledger = ledger
        self._write = write
        self._builder = builder
        self._tell_failure = tell_failure
        self._limits = Limits()
        self._summaries = Summaries(
            lambda process: builder().command(process), lambda record, by: builder().group(record, by)
        )

    def configure(self, limit: Rate | None) -> None:
        """Tell all, and begin anew with this limit for all entries together."""
        self.tell()
        self._limits.configure(limit)

    @property
    def events(self) -> int:
        """How many datagrams were silenced and are not told of yet."""
        return self._summaries.events

    @property
    def is_any_untold(self) -> bool:
        """Whether there is something to tell, now or later."""
        return self._summaries.is_any

    def takes(self, record: Record, decision: Decision) -> bool:
        """Whether a record that was not dropped is silenced; if so, it will be told of."""
        # Also what no rule decided may have been found severe, by one that tags.
        alarm = (decision.rule or "") if decision.priority <= SEVERE else None
        suppressed = self._limits.suppressed(record, decision.suppression, alarm)
        if suppressed is None:
            return False
        suppression, group = suppressed
        self._summaries.add(record, decision.priority, suppression, group)
        return True

    def tell_due(self, now_ns: int) -> None:
        """Write the entries whose time has come."""
        self._limits.forget(now_ns)
        self._tell(self._summaries.take(now_ns))

    def tell(self) -> None:
        """Write all there are to write."""
        self._tell(self._summaries.take(math.inf))

    def _tell(self, summaries: list[Summary]) -> None:
        for summary in summaries:
            try:
                entry = self._entry(summary)
            except Exception:
                # Those that follow are told all the same.
                self._ledger.failed += summary.events
                self._tell_failure("at a summary, going on without it", summary.count)
            else:
                # From here on its events are the writer's, as those of any entry.
                self._write(entry)

    def _entry(self, summary: Summary) -> Entry:
        entry = self._builder().own(
            "summary",
            summary_message(summary),
            summary.priority,
            rule=summary.suppression.rule,
            group=summary.group or None,
            count=summary.count,
            since_usec=summary.since_ns // 1000,
            until_usec=summary.until_ns // 1000,
            sample=[*summary.samples.values()] or None,
        )
        entry.events = summary.events
        is_counted = summary.suppression.rate is None
        entry.on_written = partial(self._ledger.told, summary.events, is_counted=is_counted)
        return entry

    def terms(self) -> dict[str, int]:
        """What the limits on what is remembered have cost."""
        return {
            "GROUPS_SHARED": self._limits.shared + self._summaries.shared,
            "SAMPLES_SKIPPED": self._summaries.samples_skipped,
        }
