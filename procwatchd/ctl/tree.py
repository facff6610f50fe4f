# SPDX-License-Identifier: MIT
"""`procwatchctl tree`: who started what, and what became of it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from rich.console import Console

from procwatchd.ctl.lives.forest import Node
from procwatchd.ctl.lives.reading import Reading
from procwatchd.ctl.past.absent import Absent
from procwatchd.ctl.show.branches import Times, print_line, print_trees
from procwatchd.ctl.show.figures import date, span
from procwatchd.ctl.show.missing import dropped
from procwatchd.ctl.show.screen import clean, print_json, print_skipped, screen

DAY_USEC = 24 * 3600 * 1_000_000


def tree(options: argparse.Namespace) -> int:
    """Show it."""
    reading = Reading(options, Absent(), is_folding=not options.all)
    reading.read()
    if options.json:
        print_json(_as_json(reading))
        return 0
    with screen(has_pager=not options.no_pager) as console:
        _print_head(console, reading)
        has_ends = reading.has_ends
        has_days = (reading.until_usec or 0) - (reading.since_usec or 0) >= DAY_USEC
        times = Times(has_days=has_days, has_ends=has_ends, last_usec=reading.last_usec or 0)
        if len(reading.boots) == 1:
            print_trees(console, reading.boots[0].children, times)
        for boot in reading.boots if len(reading.boots) > 1 else ():
            host, boot_id = boot.life.host or "an unknown host", boot.life.key[0] or "unknown"
            console.print()
            print_line(console, clean(f"{host}, boot {boot_id}", "bold"))
            print_trees(console, boot.children, times)
        print_skipped(console, reading.skipped)
    return 0


def _print_head(console: Console, reading: Reading) -> None:
    forest = reading.forest
    begun = "the beginning" if reading.since_usec is None else date(reading.since_usec)
    over = "now" if reading.until_usec is None else date(reading.until_usec)
    hint = ", the last hour: --since asks for more" if reading.is_last_hour else ""
    print_line(console, clean(f"From {begun} to {over}{hint}", "bold"))
    words = [f"{forest.processes} process{'' if forest.processes == 1 else 'es'}"]
    if forest.failed:
        words.append(f"{forest.failed} failed")
    if forest.living and reading.has_ends:
        words.append(f"{forest.living} living")
    print_line(console, clean(f"{', '.join(words)}; {reading.count} entries read"))
    for line in _warnings(reading):
        print_line(console, clean(line, "yellow"))


def _warnings(reading: Reading) -> Iterator[str]:
    """What is not in the trees, as far as entries say so."""
    absent = reading.absent
    if not_running_usec := reading.not_running_usec:
        yield f"NOT RUNNING for {span(not_running_usec)} of this time: the daemon listened to nothing"
    counts = (
        (absent.summarised, "only summarised"),
        (absent.lost_events, "lost"),
        (absent.missed, "forks not told"),
    )
    words = [f"{count} {what}" for count, what in counts if count]
    words += [dropped(absent)] if absent.dropped else []
    if words:
        yield f"Not all events of this time have an entry: {', '.join(words)}"
    if absent.dropped is None:
        yield f"There may be more, as {dropped(absent)}: that takes two accounts, one every ten minutes"
    if reading.forest.living and not reading.has_ends:
        yield f"Of {reading.forest.living} no end is shown: they live, or the filter left it out"
    if absent.blind and not absent.missed:
        yield f"The kernel told of nothing for a while, {absent.blind} times"
    if reading.forest.lives.forgotten:
        yield f"{reading.forest.lives.forgotten} processes are shown as ended, as too many lived at a time"
    if reading.unknown:
        yield f"{reading.unknown} entries left out: they do not hold what the filter asks for"


def _as_json(reading: Reading) -> dict[str, Any]:
    forest, absent = reading.forest, reading.absent
    return {
        "since_usec": reading.since_usec,
        "until_usec": reading.until_usec,
        "entries": reading.count,
        "processes": forest.processes,
        "failed": forest.failed,
        "living": forest.living if reading.has_ends else None,
        "unknown": reading.unknown,
        "forgotten": forest.lives.forgotten,
        "absent": {
            "dropped": absent.dropped,
            "dropped_since_usec": absent.dropped_since_usec,
            "dropped_until_usec": absent.dropped_until_usec,
            "summarised": absent.summarised,
            "lost": absent.lost_events,
            "missed": absent.missed,
            "blind": absent.blind,
            "not_running_usec": reading.not_running_usec,
        },
        "skipped": {"count": reading.skipped.count, "first": reading.skipped.shown},
        "boots": [_boot_as_json(boot, has_ends=reading.has_ends) for boot in reading.boots],
    }


def _boot_as_json(boot: Node, *, has_ends: bool) -> dict[str, Any]:
    return {
        "host": boot.life.host,
        "boot_id": boot.life.key[0],
        "more": boot.more,
        "more_failed": boot.more_failed,
        "children": [_node_as_json(node, has_ends=has_ends) for node in boot.children],
    }


def _node_as_json(node: Node, *, has_ends: bool) -> dict[str, Any]:
    numbers = (
        "count",
        "seen",
        "succeeded",
        "failed",
        "since_usec",
        "is_since_known",
        "until_usec",
        "shortest_usec",
        "longest_usec",
    )
    sums = ("cpu_usec", "memory_peak", "ends", "user", "unit", "container")
    life = node.life
    return {
        "kind": node.kind,
        **{name: getattr(node, name) for name in numbers + sums},
        "living": node.living if has_ends else None,
        "sample": {
            "pid": life.pid,
            "process_id": life.key[1],
            "comm": life.comm,
            "exe": life.exe,
            "command": life.command,
            "status": life.status if node.seen and (has_ends or life.until_usec is not None) else "",
            "session": life.session,
            "tags": life.tags,
        },
        "more": node.more,
        "more_failed": node.more_failed,
        "children": [_node_as_json(child, has_ends=has_ends) for child in node.children],
    }
