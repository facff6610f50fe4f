# SPDX-License-Identifier: MIT
"""`doctor` on the entries: when there were any, what is missing between them, and who else sends what looks like them.

Facts:
- Statistics are an entry each 10 minutes: a daemon without one for longer is not heard [daemon.py].
- Between the journal's time by the wall clock and that by the kernel's there is one difference for as long as nobody
  sets the clock and the machine does not sleep. While it sleeps no statistics are due.
- What the configuration asks not to be used the start entry tells, too, as `capture.accounting is off` [daemon.py].
- Fields without a leading `_` anybody can send; those with one are journald's own word [systemd.journal-fields(7)].
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from procwatchd.ctl.health.journal_entries import (
    LATEST,
    Entries,
    Entry,
    boot_of,
    monotonic_usec,
    slept_usec,
    when_usec,
)
from procwatchd.ctl.health.machine import buffer_finding
from procwatchd.ctl.health.system import DAY_USEC, Finding, System, fail, ok, warn
from procwatchd.ctl.past.entries import number, text_of
from procwatchd.ctl.show.figures import date, size, span
from procwatchd.journal.kinds import PREFIX
from procwatchd.journal.quote import printable, quote_argv
from procwatchd.process.fields import EVENTS

SILENT_USEC = 15 * 60 * 1_000_000  # statistics are due each 10 minutes
SLOW_USEC = 5_000_000
JUMP_USEC = 1_000_000

# Limits.
TOLD_LIMIT = 1000  # entries of the daemon's own that are looked at
LAG_ENTRIES = 100
SENDERS_SHOWN = 5


def readable(system: System) -> Iterator[Finding]:
    """Whether the journal may be read; without that nothing else here can be said."""
    why = system.why_no_journal.removesuffix(" (--file reads JSON lines)")
    if why:
        is_hidden = "group" in why
        group = "run this as root, or be in the group: usermod -aG GROUP USER, and log in again"
        yield warn("journal", why, group if is_hidden else "systemctl status systemd-journald")
    else:
        yield ok("journal", "it can be read")


def last_entry(system: System) -> Iterator[Finding]:
    """When the daemon last wrote, and how long its entries take to get there."""
    found = Entries(system.journal_root).own()
    is_running = system.daemon_pid is not None
    if not found:
        text = "the journal has no entry of procwatchd.service"
        advice = "journalctl -u procwatchd; does it write elsewhere (--output)?" if is_running else ""
        yield fail("entries", text, advice) if is_running else warn("entries", text, "start the service")
        return
    age = max(0, system.now_usec - when_usec(found[0]))
    text = f"the last one {date(when_usec(found[0]))}, {span(age)} ago"
    if is_running and age - slept_usec(found[0], system) > SILENT_USEC:
        yield fail(
            "entries",
            f"{text}: the daemon runs and is not heard",
            "systemctl status procwatchd systemd-journald",
        )
    else:
        yield ok("entries", text, age_usec=age)
    yield from _lag(Entries(system.journal_root).own(*EVENTS, limit=LAG_ENTRIES))


def _lag(entries: list[Entry]) -> Iterator[Finding]:
    """From an event to its entry in the journal."""
    times = ((monotonic_usec(entry), number(entry, "MONOTONIC_USEC")) for entry in entries)
    lags = sorted(
        stored - happened for stored, happened in times if happened is not None and stored >= happened
    )
    if not lags:
        return
    middle, longest = lags[len(lags) // 2], lags[-1]
    text = f"from event to entry {span(middle)}, at most {span(longest)}, by the last {len(lags)}"
    if middle > SLOW_USEC:
        yield warn("lag", text, "see 'table': is the machine, or journald, too busy?", lag_usec=middle)
    else:
        yield ok("lag", text, lag_usec=middle)


def losses(system: System) -> Iterator[Finding]:
    """The last loss, and how much was lost of late."""
    last = Entries(system.journal_root).own("loss")
    if not last:
        yield ok("losses", "the journal tells of none")
        return
    when = date(when_usec(last[0]))
    recent = Entries(system.journal_root).own("loss", since_usec=system.now_usec - DAY_USEC, limit=TOLD_LIMIT)
    if not recent:
        yield ok("losses", f"none in the last day; the last one {when}: {_message(last[0])}")
        return
    lost: Counter[str] = Counter()
    for entry in recent:
        lost[text_of(entry, "LOST_WHERE") or "?"] += number(entry, "COUNT") or 0
    listed = ", ".join(f"{count:,} {where}" for where, count in lost.most_common(SENDERS_SHOWN))
    more = "at least " if len(recent) == TOLD_LIMIT else ""
    yield warn(
        "losses",
        f"{more}{lost.total():,} in the last day ({listed}) in {len(recent)} entries; the last one {when}",
        "procwatchctl log event=loss; kernel: raise capture.receive-buffer; queue, journal: fewer entries, by rules",
        lost=dict(lost),
        last_usec=when_usec(last[0]),
    )


def blindness(system: System) -> Iterator[Finding]:
    """Whether the kernel told of nothing for a while."""
    last = Entries(system.journal_root).own("blind")
    if not last:
        yield ok("blindness", "the journal tells of none")
        return
    text = f"the last one {date(when_usec(last[0]))}: {_message(last[0])}"
    if system.now_usec - when_usec(last[0]) > DAY_USEC:
        yield ok("blindness", f"none in the last day; {text}")
    else:
        advice = "some program breaks the kernel's count of listeners: procwatchctl log event=listener, event=blind"
        yield warn("blindness", text, advice, last_usec=when_usec(last[0]))


def last_start(system: System) -> Iterator[Finding]:
    """What the daemon said when it started: what it was not granted."""
    found = Entries(system.journal_root).own("start")
    if found:
        yield from _granted(system, found[0])
        yield _said(found[0])
    elif system.daemon_pid is not None:
        text = "not known is what the daemon was granted: its start entry is no longer in the journal"
        yield warn("start", text, "systemctl restart procwatchd writes another one; see 'room'")


def _granted(system: System, start: Entry) -> Iterator[Finding]:
    """The receive buffer, against what is configured now."""
    granted = number(start, "RECEIVE_BUFFER")
    if system.daemon_pid is None or granted is None or system.config is None:
        return
    wanted = system.config.capture.receive_buffer_bytes
    files = (os.stat(path) for path in system.config.files)
    if granted < wanted and any(file.st_mtime_ns // 1000 > when_usec(start) for file in files):
        text = f"{size(granted)}, by the configuration at its start; {size(wanted)} are configured now"
        advice = "systemctl restart procwatchd: a reload does not change it"
        yield warn("receive buffer", text, advice, granted=granted, wanted=wanted)
    else:
        yield buffer_finding(granted, wanted, "the daemon was granted no more when it started")


def _said(start: Entry) -> Finding:
    notes = [one for one in _message(start).split("; ") if one.startswith(_NOTES) and not _is_configured(one)]
    when = date(when_usec(start))
    if notes:
        return warn("start", f"{when} it said: {'; '.join(notes)}", "see 'capabilities' and 'recorder'")
    return ok("start", f"the last one {when}, with all it asked for")


# What a start entry says that is not as it should be [daemon.py].
_NOTES = ("arguments by /proc", "of others' processes no environment", "ends only as far", "marks of secrets")
_is_configured = re.compile(r".*: capture\.[a-z]+ is [a-z]+").fullmatch


def clock_jumps(system: System) -> Iterator[Finding]:
    """Whether somebody set the clock within the last day."""
    kinds = ("start", "statistics", "stop")
    entries = Entries(system.journal_root).own(
        *kinds, since_usec=system.now_usec - DAY_USEC, limit=TOLD_LIMIT
    )
    jumps = [
        abs(_difference(later) - _difference(earlier))
        for later, earlier in pairwise(entries)
        if boot_of(later) == boot_of(earlier)
    ]
    large = [jump for jump in jumps if jump > JUMP_USEC]
    if large:
        yield warn(
            "clock",
            f"it was set, or the machine slept, {len(large)} times in the last day, by up to {span(max(large))}",
            "see who sets it: journalctl -u systemd-timesyncd -u chrony; PROCWATCH_MONOTONIC_USEC keeps the order",
        )


def _difference(entry: Entry) -> int:
    return when_usec(entry) - monotonic_usec(entry)


def forgeries(system: System) -> Iterator[Finding]:
    """Entries with our events that another process sent."""
    found, is_whole = Entries(system.journal_root).of_others(system.daemon_uid)
    if not found:
        looked = "" if is_whole else f": of the last {LATEST:,}, and of older ones as far as a second allowed"
        yield ok("forgeries", f"no other process sent an entry with a {PREFIX}EVENT of the daemon's{looked}")
        return
    senders = Counter(_sender(entry) for entry in found)
    listed = "; ".join(f"{count:,} by {who}" for who, count in senders.most_common(SENDERS_SHOWN))
    if len(senders) > SENDERS_SHOWN:
        listed += f"; and {len(senders) - SENDERS_SHOWN} others"
    more = "" if is_whole else "at least "
    when = date(when_usec(found[0]))
    text = f"{more}{len(found):,} with a {PREFIX}EVENT of the daemon's were sent by others: {listed}; the last {when}"
    advice = (
        "procwatchctl does not believe them, plain journalctl shows them: look with "
        f"journalctl {PREFIX}EVENT={_kind(found[0])} _PID={found[0].get('_PID', '?')} -o verbose"
    )
    is_recent = system.now_usec - when_usec(found[0]) < DAY_USEC
    values = {"count": len(found), "last_usec": when_usec(found[0])}
    yield (
        fail("forgeries", text, advice, **values) if is_recent else warn("forgeries", text, advice, **values)
    )


def _sender(entry: Entry) -> str:
    """Who it was, by journald's own word."""
    program = entry.get("_EXE") or entry.get("_COMM")
    words = [_quoted(program) if program else "an unknown program"]
    words += [f"{label} {entry[name]}" for name, label in (("_PID", "PID"), ("_UID", "UID")) if name in entry]
    unit = entry.get("_SYSTEMD_USER_UNIT") or entry.get("_SYSTEMD_UNIT")
    return printable(", ".join([*words, str(unit)] if unit else words))


def _quoted(program: str | bytes) -> str:
    """One word, whatever is in it."""
    raw = program if isinstance(program, bytes) else program.encode("utf-8", "surrogateescape")
    return quote_argv(raw)


def _kind(entry: Entry) -> str:
    return text_of(entry, "EVENT")


def _message(entry: Entry) -> str:
    value = entry.get("MESSAGE", "")
    return printable(value if isinstance(value, str | bytes) else "")
