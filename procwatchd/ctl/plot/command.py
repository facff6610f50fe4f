# SPDX-License-Identifier: MIT
"""`procwatchctl plot`: the lives of processes over time, as one SVG."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from array import array
from collections.abc import Iterator

from procwatchd.ctl.errors import CtlError
from procwatchd.ctl.lives.forest import Node, resolve
from procwatchd.ctl.lives.lives import Life
from procwatchd.ctl.lives.reading import Reading
from procwatchd.ctl.past.absent import Absent
from procwatchd.ctl.past.entries import Entry, full_text_of, number, realtime_usec
from procwatchd.ctl.plot.clockticks import exact
from procwatchd.ctl.plot.layout import lay_out
from procwatchd.ctl.plot.palettes import PALETTES, Palette
from procwatchd.ctl.plot.svg import Gap, Heading, count, draw
from procwatchd.ctl.plot.timeline import Marks, Timeline, Window
from procwatchd.ctl.show.figures import span
from procwatchd.ctl.show.missing import dropped
from procwatchd.ctl.show.outputfile import output_to
from procwatchd.ctl.show.screen import Screen, print_skipped

# Limits.
LIVES_LIMIT = 40_000  # of which all is known; above, of the briefest that ended well only the times are kept
MARKS_LIMIT = 2_000_000  # such times; above, they are not drawn
MARGINS = 100  # as many times the margin is the time between the first entry and the last
GAPS_LIMIT = 200  # that are marked; all are counted


_GAPS = frozenset({"loss", "blind", "start"})


class Kept:
    """The processes to draw: of the briefest that ended well nothing but the times, where there is no more room.

    `marks` has these, up to `marks_limit` of them.
    """

    def __init__(self, palette: Palette, limit: int = LIVES_LIMIT, marks_limit: int = MARKS_LIMIT) -> None:
        self.lives: list[Life] = []
        self._palette = palette
        self._limit = limit
        self._room = marks_limit
        self._marks: dict[tuple[Node, bool, str], Marks] = {}

    @property
    def marks(self) -> list[Marks]:
        """Those of which nothing else is kept."""
        return list(self._marks.values())

    def add(self, life: Life) -> None:
        """Keep one more, which has no place yet; all before it have."""
        if len(self.lives) >= self._limit:
            self.lives.sort(key=_worth, reverse=True)
            for one in self.lives[self._limit // 2 :]:
                self._mark(one)
            del self.lives[self._limit // 2 :]
        self.lives.append(life)

    def _mark(self, life: Life) -> None:
        if self._room > 0 and life.until_usec is not None:
            self._room -= 1
            place = *resolve(life.place), self._palette.word_of(life)
            marks = self._marks.setdefault(place, Marks(*place, array("q")))
            marks.times.extend((life.since_usec, life.until_usec))


def _worth(life: Life) -> tuple[bool, int]:
    lasted = 1 << 62 if life.until_usec is None else life.until_usec - life.since_usec
    return life.has_failed, lasted


class _Account(Absent):
    """What the daemon says is missing, and when."""

    def __init__(self) -> None:
        super().__init__()
        self._gaps: list[Gap] = []
        # By machine: blindnesses that are not over.
        self._blind: dict[str, Gap] = {}

    def take(self, kind: str, entry: Entry) -> None:
        """Learn from an entry of this kind."""
        super().take(kind, entry)
        written, monotonic = realtime_usec(entry), number(entry, "MONOTONIC_USEC")
        if kind not in _GAPS or written is None or monotonic is None:
            return
        since, until = number(entry, "SINCE_USEC"), number(entry, "UNTIL_USEC")
        machine = full_text_of(entry, "_MACHINE_ID") or full_text_of(entry, "_HOSTNAME")
        if kind == "start" and machine in self._blind:
            self._add(dataclasses.replace(self._blind[machine], until_usec=written))
        if kind != "loss":
            self._blind.pop(machine, None)
        if since is None:
            return
        ahead = written - monotonic
        gap = Gap(
            since + ahead, written if until is None else until + ahead, full_text_of(entry, "MESSAGE") or kind
        )
        if until is not None:
            self._add(gap)
        elif kind == "blind" and len(self._blind) < GAPS_LIMIT:
            self._blind[machine] = gap

    def gaps(self, until_usec: int) -> list[Gap]:
        """Those times; what is not over goes on till then."""
        blind = (dataclasses.replace(gap, until_usec=until_usec) for gap in self._blind.values())
        return [*self._gaps, *blind]

    def _add(self, gap: Gap) -> None:
        if len(self._gaps) < GAPS_LIMIT:
            self._gaps.append(gap)


def plot(options: argparse.Namespace) -> int:
    """Draw who lived when."""
    if options.output is None and sys.stdout.isatty():
        raise CtlError("a picture is not for a terminal: name a file by -o, as in -o lives.svg")
    palette = PALETTES[options.colour]
    account, kept = _Account(), Kept(palette)
    reading = Reading(options, account, kept.add)
    reading.read()
    if not reading.forest.processes:
        print_skipped(Screen(sys.stderr), reading.skipped)
        hint = ", which was the last hour; --since asks for more" if reading.is_last_hour else ""
        raise CtlError(f"no process is told of that was asked for, in that time{hint}: nothing to draw")
    timeline = lay_out(reading.boots, kept.lives, kept.marks, _window(options, reading, kept), palette)
    gaps = account.gaps(timeline.window.until_usec)
    with output_to(options.output) as file:
        file.write(draw(timeline, _heading(options, reading, timeline), gaps))
    print_skipped(Screen(sys.stderr), reading.skipped)
    return 0


def _window(options: argparse.Namespace, reading: Reading, kept: Kept) -> Window:
    """The time of which there are entries of what is drawn; and a little more, so that beginnings and ends are seen."""
    first, last = reading.first_usec or 0, reading.last_usec or 0
    if not kept.marks:
        first = max(first, min(life.since_usec for life in kept.lives))
        ends = (last if life.until_usec is None else life.until_usec for life in kept.lives)
        last = max(first, min(last, max(ends)))
    margin = max(500, (last - first) // MARGINS)
    asked = 0 if options.since is None else reading.since_usec or 0
    return Window(max(0, first - margin, min(asked, first)), last + margin)


def _heading(options: argparse.Namespace, reading: Reading, timeline: Timeline) -> Heading:
    forest = reading.forest
    hosts = sorted({boot.life.host for boot in reading.boots if boot.life.host})
    window = timeline.window
    zone = time.strftime("%Z", time.localtime(window.since_usec // 1_000_000))
    counts = [
        f"{count(forest.processes)} processes",
        f"{count(forest.failed)} failed",
        f"{count(forest.living)} {'still living' if reading.has_ends else 'whose end no entry tells'}",
    ]
    drawn = [f"{count(timeline.banded)} of them in bands"] if timeline.banded else []
    drawn += [f"{count(timeline.undrawn)} not drawn"] if timeline.undrawn > 0 else []
    return Heading(
        f"Processes of {', '.join(hosts[:4])}{' and others' if hosts[4:] else ''}" if hosts else "Processes",
        [
            f"{exact(window.since_usec)} to {exact(window.until_usec)} {zone}, {span(window.span_usec)}, "
            "from the first that was asked for to the last",
            ", ".join(counts + drawn),
            *_asked(options),
        ],
        list(_missing(reading, window)),
    )


def _asked(options: argparse.Namespace) -> list[str]:
    """What of all was asked for."""
    roots = {"process": options.pid or options.process_id, "unit": options.unit, "session": options.session}
    below = [f"{name} {value} and what is below it" for name, value in roots.items() if value]
    return ["only " + ", ".join([*below, *options.filters])] if below or options.filters else []


def _missing(reading: Reading, window: Window) -> Iterator[str]:
    """What the picture lacks."""
    absent = reading.absent
    if absent.lost_events:
        yield f"lost, and not in the picture: {count(absent.lost_events)} events"
    if absent.blind:
        missed = "an unknown number of" if absent.missed is None else f"about {count(absent.missed)}"
        yield f"times the daemon was blind: {count(absent.blind)}; it missed {missed} forks"
    until_usec = min(window.until_usec, reading.until_usec or window.until_usec)
    if not_running_usec := absent.not_running_usec(window.since_usec, until_usec):
        yield f"NOT RUNNING for {span(not_running_usec)}: what ran then is not in the picture"
    if absent.summarised:
        yield f"silenced by rules, with a summary instead of entries: {count(absent.summarised)} events"
    if absent.dropped != 0:
        yield f"not in the picture: {dropped(absent)}"
    if reading.forest.lives.forgotten:
        yield f"shown as ended, as too many lived at a time: {count(reading.forest.lives.forgotten)} processes"
    if reading.unknown:
        yield f"not in the picture, as they do not hold what the filter asks for: {count(reading.unknown)} entries"
    if reading.skipped.count:
        yield f"passed over: {count(reading.skipped.count)} lines or entries"
