# SPDX-License-Identifier: MIT
"""`procwatchctl log`: entries for people, as they are read; nothing waits for the last of them."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import sys
from collections import deque
from collections.abc import Iterable, Iterator

from rich.console import Console

from procwatchd.ctl.errors import CtlError
from procwatchd.ctl.lives.descent import read_descent
from procwatchd.ctl.lives.lives import Lives
from procwatchd.ctl.past.entries import (
    STANDARD_INPUT,
    Entries,
    Entry,
    as_json,
    full_text_of,
    realtime_usec,
    text_of,
)
from procwatchd.ctl.past.filters import Filter, parse_filter
from procwatchd.ctl.past.progress import search
from procwatchd.ctl.show.figures import date
from procwatchd.ctl.show.screen import Screen, clean, print_skipped, screen
from procwatchd.journal.text import coloured

FOLLOWED = 10  # entries before those that come, as journalctl has it

# Limits.
INDENT_LIMIT = 30  # steps to the right
_STEP = "  "


def log(options: argparse.Namespace) -> int:
    """Show them."""
    if options.follow and (options.until is not None or _has_process(options)):
        raise CtlError("--follow goes on without end: it is not for --until, --pid and --process-id")
    wanted = parse_filter(options.filters)
    entries = Entries(options, wanted)
    has_pager = not (options.no_pager or options.follow or options.json)
    asked = _asked_for(options, wanted, entries)
    if not options.follow:
        asked = _with_first(asked)
    with screen(has_pager=has_pager) as console, _quiet_end(options):
        write = _as_line if options.json else _Writer(console, options, entries.hosts()).line
        count = 0
        for entry in asked:
            if entry is not None:
                count += 1
                console.file.write(write(entry))
            if entry is None or (options.follow and options.file is not None):
                console.file.flush()
        told = Screen(sys.stderr) if options.json else console
        if not count and not options.json:
            console.print(clean("-- No entries --", "dim"))
        _print_unknown(told, wanted.unknown)
        print_skipped(told, entries.skipped)
    return 0


def _has_process(options: argparse.Namespace) -> bool:
    return options.pid is not None or options.process_id is not None


@contextlib.contextmanager
def _quiet_end(options: argparse.Namespace) -> Iterator[None]:
    """Whoever follows ends it so."""
    try:
        yield
    except KeyboardInterrupt:
        if not options.follow:
            raise


def _with_first(entries: Iterable[Entry | None]) -> Iterable[Entry | None]:
    """The same, the first already looked for: that may take long, and a pager hides the progress."""
    rest = iter(entries)
    return itertools.chain([*itertools.islice(rest, 1)], rest)


def _asked_for(options: argparse.Namespace, wanted: Filter, entries: Entries) -> Iterable[Entry | None]:
    """What to show, in order; None where there is nothing more yet."""
    if _has_process(options):
        found = filter(wanted.holds, read_descent(options, entries))
        return found if options.lines is None else deque(found, maxlen=options.lines)
    has_end = options.file not in (None, STANDARD_INPUT)
    if options.follow and not (has_end and options.lines):
        return entries.follow(options.lines or FOLLOWED)
    if options.lines is not None:
        return entries.last(options.lines)
    indexed = Entries(options, Filter(wanted.in_index))
    indexed.skipped = entries.skipped
    return search(indexed, wanted.holds)


def _as_line(entry: Entry) -> str:
    return json.dumps(as_json(entry), separators=(",", ":")) + "\n"


def _print_unknown(console: Console, unknown: int) -> None:
    if unknown:
        console.print(
            clean(f"{unknown} entries left out: they do not hold what the filter asks for", "yellow")
        )


class _Writer:
    """Makes lines of entries: `Nov 21 03:01:02 MESSAGE`, with the host where there are several."""

    def __init__(self, console: Console, options: argparse.Namespace, hosts: set[str]) -> None:
        self._hosts = hosts
        self._lives = Lives() if options.tree else None
        self._has_colour = console.is_terminal and not console.no_color and console.color_system is not None
        self._second = -1
        self._stamp = ""

    def line(self, entry: Entry) -> str:
        """One line."""
        host = full_text_of(entry, "_HOSTNAME")
        self._hosts.add(host)
        stamp = self._time(realtime_usec(entry)) + (f" {host}" if len(self._hosts) > 1 else "")
        stamp += self._indent(entry)
        message = full_text_of(entry, "MESSAGE")
        return f"{self._coloured(stamp, message, entry) if self._has_colour else f'{stamp} {message}'}\n"

    def _coloured(self, stamp: str, message: str, entry: Entry) -> str:
        code = text_of(entry, "EXIT_CODE")
        return coloured(
            stamp,
            message,
            event=text_of(entry, "EVENT"),
            priority=full_text_of(entry, "PRIORITY"),
            has_failed=code not in ("", "0") or "PROCWATCH_EXIT_SIGNAL" in entry,
        )

    def _time(self, usec: int | None) -> str:
        if usec is None:
            return "-" * len("Nov 21 03:01:02")
        if self._second != usec // 1_000_000:
            self._second = usec // 1_000_000
            self._stamp = date(usec)
        return self._stamp

    def _indent(self, entry: Entry) -> str:
        """A step for each ancestor that was shown."""
        life = None if self._lives is None else self._lives.take(entry)
        steps = 0
        while life is not None and life.parent is not None:
            life = life.parent
            steps += life.is_seen
        return _STEP * min(steps, INDENT_LIMIT)
