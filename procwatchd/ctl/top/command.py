# SPDX-License-Identifier: MIT
"""`procwatchctl top`: what ran most, took most, failed most, and lived shortest; once, or live."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator

from procwatchd.ctl.errors import CtlError
from procwatchd.ctl.past.absent import KINDS
from procwatchd.ctl.past.entries import Entries, Entry, realtime_usec
from procwatchd.ctl.past.facts import kind_of
from procwatchd.ctl.past.filters import Filter, parse_filter
from procwatchd.ctl.past.progress import with_progress
from procwatchd.ctl.show.figures import span
from procwatchd.ctl.show.live import REFRESH_SECONDS, show_live
from procwatchd.ctl.show.screen import clean, print_json, print_skipped, screen
from procwatchd.ctl.top.activity import Activity, Window
from procwatchd.ctl.top.ranking import Shown, as_json, page
from procwatchd.process.fields import EVENTS

HOUR_USEC = 3_600_000_000
WINDOW_USEC = 600_000_000  # that is shown live, where nothing else was asked for
FIRST_SECONDS = 0.5  # after which something is shown, whatever is still to be read


class _WithAccount(Filter):
    """What a filter wants, and the daemon's own entries, which tell what is missing.

    `first_usec` and `last_usec` are the times of all entries that it was asked about, wanted or not.
    """

    def __init__(self, wanted: Filter) -> None:
        super().__init__({})
        self.wanted = wanted
        self.first_usec: int | None = None
        self.last_usec: int | None = None

    def holds(self, entry: Entry) -> bool:
        """Whether an entry is wanted."""
        when = realtime_usec(entry)
        if when is not None:
            self.first_usec = when if self.first_usec is None else min(when, self.first_usec)
            self.last_usec = when if self.last_usec is None else max(when, self.last_usec)
        return kind_of(entry) not in EVENTS or self.wanted.holds(entry)


def top(options: argparse.Namespace) -> int:
    """Count what ran in a time, and show who is first in what."""
    wanted = parse_filter(options.filters)
    if options.follow:
        _follow(options, wanted)
        return 0
    whole = _WithAccount(wanted)
    entries = _entries(options, wanted if options.file is None else whole)
    shown = _read(options, wanted, entries, whole)
    if options.json:
        skipped = {"passed_over": entries.skipped.count, "skipped": entries.skipped.shown}
        print_json(as_json(shown, options.lines) | skipped)
        return 0
    with screen(has_pager=not options.no_pager) as console:
        console.print(page(shown, options.lines, console.width if console.is_terminal else None, None))
        print_skipped(console, entries.skipped)
    return 0


def _entries(options: argparse.Namespace, wanted: Filter) -> Entries:
    """What is to be read: of the journal the last hour, where nothing was said."""
    entries = Entries(options, wanted)
    if options.file is None and entries.since_usec is None:
        entries.since_usec = (entries.until_usec or _now_usec()) - HOUR_USEC
    return entries


def _read(options: argparse.Namespace, wanted: Filter, entries: Entries, whole: _WithAccount) -> Shown:
    """Count all entries; `whole` is what was asked about those of a file."""
    activity = Activity()
    is_filtered = bool(options.filters)
    is_apart = options.file is None and is_filtered
    for entry in with_progress(entries):
        if not (is_apart and kind_of(entry) in KINDS):
            activity.take(entry)
    if is_apart:
        _take_account(options, entries, activity)
    first_usec, until_usec = whole.first_usec, whole.last_usec
    if options.file is None:
        # Of what a filter leaves out nobody knows when it began.
        first_usec = None if is_filtered else activity.first_usec
        until_usec = min(_now_usec(), entries.until_usec or _now_usec())
    what = (
        "the last hour (--since TIME for another)" if options.since is None and options.until is None else ""
    )
    if options.file is not None:
        what = clean(options.file).plain
    since_usec = _since_usec(entries.since_usec, first_usec, until_usec)
    # What was passed over is named below all.
    return Shown(what, activity, since_usec, until_usec, 0, wanted.unknown, is_filtered)


def _since_usec(asked: int | None, first: int | None, until: int | None) -> int | None:
    """From when on something can be said: the first entry, where there is none in the first half of the time."""
    if asked is None or first is None or until is None:
        return first if asked is None else asked
    return first if first - asked > (until - asked) / 2 else asked


def _take_account(options: argparse.Namespace, entries: Entries, activity: Activity) -> None:
    """Add what was lost or summarised in that time, which the filter has kept the index from finding."""
    account = Entries(options, parse_filter([f"event={kind}" for kind in KINDS]))
    account.since_usec, account.until_usec = entries.since_usec, entries.until_usec
    for entry in account:
        activity.take_account(kind_of(entry), entry)


def _follow(options: argparse.Namespace, wanted: Filter) -> None:
    if options.until is not None:
        raise CtlError("what goes on has no end: --until is not for --follow")
    states = _states(options, wanted)
    if options.json:
        for state in states:
            print(json.dumps(as_json(state, options.lines)), flush=True)
        return
    show_live(states, lambda state, width, height: page(state, options.lines, width, height))


def _states(options: argparse.Namespace, wanted: Filter) -> Iterator[Shown]:
    """What ran in the window, now and then; of a file the end of what was read is now."""
    whole = _WithAccount(wanted)
    entries = Entries(options, whole)
    is_file = options.file is not None
    now_usec = 0 if is_file else _now_usec()
    window = Window(_length_usec(entries))
    if not is_file:
        entries.since_usec = now_usec - window.usec
    due = time.monotonic() + FIRST_SECONDS
    is_first = True
    for entry in entries.follow(0):
        if entry is not None:
            now_usec = max(now_usec, realtime_usec(entry) or 0) if is_file else now_usec
            window.take(entry, now_usec)
        # Of the journal the window is read first: until then nothing is whole.
        is_whole = is_file or not is_first or entry is None
        is_due = time.monotonic() >= due and (is_whole or not options.json)
        if is_due or (is_first and entry is None):
            is_first = not is_whole
            now_usec = now_usec if is_file else _now_usec()
            yield _state(options, window, entries, whole, now_usec, is_whole=is_whole)
            due = time.monotonic() + REFRESH_SECONDS
    yield _state(options, window, entries, whole, now_usec, is_whole=True)


def _length_usec(entries: Entries) -> int:
    if entries.since_usec is None:
        return WINDOW_USEC
    length_usec = _now_usec() - entries.since_usec
    if length_usec <= 0:
        raise CtlError("what goes on cannot begin later: --since is to come")
    return length_usec


def _state(
    options: argparse.Namespace,
    window: Window,
    entries: Entries,
    whole: _WithAccount,
    now_usec: int,
    *,
    is_whole: bool,
) -> Shown:
    what = f"the last {span(window.usec)}, live{'' if is_whole else ', still being read'}"
    activity = window.sum(now_usec)
    until_usec = now_usec or None  # nothing has come of a file
    asked_usec = None if until_usec is None else until_usec - window.usec
    since_usec = _since_usec(asked_usec, whole.first_usec, until_usec)
    passed_over, undecided = entries.skipped.count, whole.wanted.unknown
    return Shown(what, activity, since_usec, until_usec, passed_over, undecided, bool(options.filters))


def _now_usec() -> int:
    return time.time_ns() // 1000
