# SPDX-License-Identifier: MIT
"""`procwatchctl status`: what the daemon counts, by its metrics file; first whether all is well."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.text import Text

from procwatchd.ctl.health.metricsfile import METRICS_FILE, Metrics, Runner, find_runner, read_metrics
from procwatchd.ctl.show.blocks import Block, Name, count_text, lines_of, rate, share_text, side_by_side
from procwatchd.ctl.show.figures import date, span
from procwatchd.ctl.show.live import REFRESH_SECONDS, show_live
from procwatchd.ctl.show.screen import clean, print_json, screen

BEHIND = 10_000  # events; fewer wait wherever many come
STALE_USEC = 150_000_000  # the daemon writes each minute
FORKS_ON_THE_WAY = 1  # that the kernel has counted, and is just telling of

# The ledger, each term with the sum that it must be [procwatchd(8), LEDGER].
EQUATIONS = {
    "PRODUCED": ("RECEIVED", "FILTERED", "LOST"),
    "RECEIVED": ("MALFORMED", "FOREIGN", "UNNEEDED", "CONSIDERED", "PENDING"),
    "CONSIDERED": ("LOGGED", "DROPPED", "COUNTED", "LIMITED", "UNWRITTEN"),
}
_WORDS = {
    "PRODUCED": "by the kernel",
    "FILTERED": "there, not needed",
    "LOST": "no room for them",
    "RECEIVED": "taken in",
    "MALFORMED": "of no known form",
    "FOREIGN": "not the kernel's",
    "UNNEEDED": "of no use",
    "PENDING": "not worked off",
    "CONSIDERED": "for the rules",
    "LOGGED": "as entries",
    "DROPPED": "by rules",
    "COUNTED": "in summaries",
    "LIMITED": "in summaries",
    "UNWRITTEN": "not taken in time",
}
_BESIDE = {
    "PROCESSES": "processes that are known",
    "QUEUED": "events wait to be received",
    "FORKS": "forks told",
    "FORKS_MISSED": "forks missed, by losses and blindness",
    "FORKS_KERNEL": "forks, by the kernel's own count",
    "BLINDNESSES": "times the kernel told of nothing",
    "RESYNCS": "times all was compared with /proc",
    "ACCOUNTING_LOST": "records of ended tasks lost",
    "RECORDER_LOST": "execs or signals not recorded",
    "FAILURES": "events met an error of the daemon's own",
    "UNLOCATED": "of LOST, that the kernel's numbers do not show yet",
}
# What had no room, or was given up [procwatchd.fields(7)].
_LIMITS = (
    "ANCESTORS_CUT",
    "ARGV_CUT",
    "DETECTIONS_CUT",
    "GROUPS_SHARED",
    "HASHES_SKIPPED",
    "NAMES_REFUSED",
    "READINGS_UNUSED",
    "RECORDINGS_UNUSED",
    "RECORDS_UNUSED",
    "SAMPLES_SKIPPED",
    "SIGNALS_FORGOTTEN",
    "UNRECORDED",
)
# All that has its place.
KNOWN = frozenset({*_WORDS, *_BESIDE, *_LIMITS, "BLIND", "BEHIND_USEC"})


@dataclass(frozen=True, slots=True)
class _Reading:
    """The metrics as they are now, those before where there were some, and who writes them."""

    path: str
    metrics: Metrics
    before: Metrics | None
    runner: Runner | None
    now_usec: int

    @property
    def age_usec(self) -> int:
        """How old the metrics are."""
        return max(0, self.now_usec - self.metrics.written_usec)

    @property
    def span_usec(self) -> int:
        """The time that rates are of; 0 where it is not known."""
        if self.before is not None:
            return max(0, self.metrics.written_usec - self.before.written_usec)
        since_usec = None if self.runner is None else self.runner.since_usec
        return 0 if since_usec is None else max(0, self.metrics.written_usec - since_usec)

    def grown(self, term: str) -> int:
        """By how much a count grew in that time."""
        return self.count(term) - (0 if self.before is None else self.before.counts.get(term, 0))

    def count(self, term: str) -> int:
        """The count of a term, 0 where it is not told."""
        return self.metrics.counts.get(term, 0)


def status(options: argparse.Namespace) -> int:
    """Show what the daemon counts."""
    path = options.metrics or METRICS_FILE
    if options.follow:
        _follow(path, is_json=options.json)
        return 0
    reading = _read(path, None)
    if options.json:
        print_json(_as_json(reading))
        return 0
    with screen(has_pager=not options.no_pager) as console:
        console.print(_page(reading, console.width if console.is_terminal else None, None))
    return 0


def _read(path: str, before: Metrics | None) -> _Reading:
    metrics = read_metrics(path)
    return _Reading(path, metrics, before, find_runner(path), time.time_ns() // 1000)


def _follow(path: str, *, is_json: bool) -> None:
    if is_json:
        for reading in _readings(path):
            print(json.dumps(_as_json(reading)), flush=True)
    else:
        show_live(_readings(path), _page)


def _readings(path: str) -> Iterator[_Reading]:
    """One every few seconds; what was before is the file as it was before it was written last."""
    reading = _read(path, None)
    while True:
        yield reading
        time.sleep(REFRESH_SECONDS)
        before, latest = reading.before, reading.metrics
        reading = _read(path, before)
        if reading.metrics.written_usec != latest.written_usec:
            reading = _read(path, None if _began_anew(latest, reading.metrics) else latest)


def _began_anew(before: Metrics, after: Metrics) -> bool:
    """Whether another daemon counts now, which has begun with nothing."""
    return any(
        after.counts.get(term, 0) < before.counts.get(term, 0) for term in ("PRODUCED", "RECEIVED", "LOGGED")
    )


def _page(reading: _Reading, width: int | None, height: int | None) -> RenderableType:
    head = list(_head(reading))
    room = None if height is None else height - lines_of(head, width) - 1
    blocks = [_ledger(reading), _beside(reading), *_rules(reading), _limits(reading), *_others(reading)]
    return Lines(*head, Text(), side_by_side(blocks, len(reading.metrics.rules), width, room))


def _head(reading: _Reading) -> Iterator[Text]:
    """What matters, bad news in red."""
    metrics, runner = reading.metrics, reading.runner
    title = clean(f"procwatchd {metrics.version}".strip(), "bold")
    if runner is None:
        title.append(f" {_not_running(reading)}", "bold red")
    else:
        title.append(" runs", "bold green").append(f" as process {runner.pid}" if runner.pid else "")
        if runner.since_usec is not None:
            title.append(f" since {date(runner.since_usec)} ({span(reading.now_usec - runner.since_usec)})")
    yield title
    yield _flow(reading)
    problems = _problems(reading)
    yield from (clean(text, style) for text, style in problems)
    if runner is not None and not problems:
        yield Text("nothing is lost, and the ledger adds up", "green")
    yield Text(f"as of {date(metrics.written_usec)}, {span(reading.age_usec)} ago", "dim")


def _not_running(reading: _Reading) -> str:
    copy = "" if reading.path == METRICS_FILE else ", or this is a copy"
    return f"does not run{copy}: this is what it had counted when it last wrote"


def _flow(reading: _Reading) -> Text:
    """How much comes, how much is written, and what waits."""
    rates = {term: rate(reading.grown(term), reading.span_usec) for term in ("RECEIVED", "LOGGED")}
    received, logged = (f"{reading.count(term):,}{f' ({of})' if of else ''}" for term, of in rates.items())
    waiting = reading.count("QUEUED") + reading.count("PENDING")
    since = "" if not any(rates.values()) else "mean rates" if reading.before is None else "rates of now"
    return Text.assemble(
        f"events: {received} received, {logged} logged, ",
        (f"{waiting:,} waiting", "yellow" if waiting > BEHIND else ""),
        f", {span(reading.count('BEHIND_USEC'))} behind",
        (f" · {since}" if since else "", "dim"),
    )


def _problems(reading: _Reading) -> list[tuple[str, str]]:
    """What is not as it should be, and how bad that looks."""
    count = reading.count
    found: list[tuple[str, str]] = []
    if count("BLIND"):
        found.append(("BLIND: the kernel tells of no events; the daemon tries to be heard again", "bold red"))
    lost = {"events": count("LOST"), "entries that journald did not take": count("UNWRITTEN")}
    if any(lost.values()):
        found.append(
            (f"LOST since it started: {_listed(lost)} (see 'procwatchctl log event=loss')", "bold red")
        )
    if count("FAILURES"):
        found.append(
            (f"{count('FAILURES'):,} events met an error of the daemon's own: that is a bug", "bold red")
        )
    found += [
        (f"the ledger does not add up: {one}", "bold red") for one in imbalances(reading.metrics.counts)
    ]
    helpers = {
        "records of ended tasks": count("ACCOUNTING_LOST"),
        "recorded execs or signals": count("RECORDER_LOST"),
    }
    if any(helpers.values()):
        found.append((f"fields are missing: {_listed(helpers)} lost", "yellow"))
    if reading.runner is not None and reading.age_usec > STALE_USEC:
        text = (
            f"STALE: written {span(reading.age_usec)} ago, where that is done each minute: the daemon hangs"
        )
        found.append((text, "bold red"))
    if reading.metrics.odd:
        found.append(
            (f"lines that are not procwatchd's: {reading.metrics.odd:,} in {reading.path}", "yellow")
        )
    return found


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)


def imbalances(counts: Mapping[str, int]) -> list[str]:
    """What of the ledger does not hold, in words."""
    terms = {*EQUATIONS, *(term for of in EQUATIONS.values() for term in of)}
    missing = sorted(terms - counts.keys())
    if missing:
        return [f"there is no {', '.join(missing)}"]
    found = []
    for term, of in EQUATIONS.items():
        off = counts[term] - sum(counts[one] for one in of)
        if off:
            found.append(f"{term} is {abs(off):,} {'more' if off > 0 else 'less'} than {' + '.join(of)}")
    # While it is blind they differ, and by how much is told afterwards.
    if "FORKS_KERNEL" in counts and not counts.get("BLIND"):
        off = counts["FORKS_KERNEL"] - counts.get("FORKS", 0) - counts.get("FORKS_MISSED", 0)
        if abs(off) > FORKS_ON_THE_WAY:
            found.append(f"the kernel's count of forks is {abs(off):,} {'ahead' if off > 0 else 'behind'}")
    return found


def _ledger(reading: _Reading) -> Block:
    rows = [
        (
            count_text(reading.count(term)),
            share_text(reading.count(term), reading.count("PRODUCED")),
            Text(rate(reading.grown(term), reading.span_usec)),
            _line(f"{'  ' * depth}{term} {_WORDS[term]}", _style(term, reading.count(term))),
        )
        for term, depth in _in_order("PRODUCED", 0)
    ]
    return Block("the ledger", ("events", "share", "rate", ""), rows, is_whole=True)


def _in_order(term: str, depth: int) -> Iterator[tuple[str, int]]:
    """A term, and those it is the sum of below it."""
    yield term, depth
    for part in EQUATIONS.get(term, ()):
        yield from _in_order(part, depth + 1)


def _line(text: str, style: str) -> Text:
    return Text(text, style, no_wrap=True, overflow="ellipsis")


def _style(term: str, count: int) -> str:
    return "bold red" if count and term in ("LOST", "UNWRITTEN", "MALFORMED", "FAILURES") else ""


def _beside(reading: _Reading) -> Block:
    rows = [
        (count_text(reading.count(term)), _line(words, _style(term, reading.count(term))))
        for term, words in _BESIDE.items()
        if term in reading.metrics.counts
    ]
    return Block("beside it", ("", ""), rows, is_whole=True)


def _rules(reading: _Reading) -> list[Block]:
    """How many events each rule decided, where the daemon tells."""
    before = {} if reading.before is None else reading.before.rules
    most = sorted(reading.metrics.rules.items(), key=lambda item: (-item[1], item[0]))
    rows = [
        (
            count_text(count),
            Text(rate(count - before.get(rule, 0), reading.span_usec)),
            clean(rule[1]),
            Name(rule[0] or "(no rule)"),
        )
        for rule, count in most
    ]
    return [Block("rules that decided", ("events", "rate", "action", "rule"), rows)] if rows else []


def _limits(reading: _Reading) -> Block:
    rows = [(count_text(reading.count(term)), Name(term)) for term in _LIMITS if reading.count(term)]
    return Block("what limits have cost (see procwatchd.fields(7))", ("", ""), rows, is_whole=True)


def _others(reading: _Reading) -> list[Block]:
    """What a later version tells, as it has it."""
    told = {**reading.metrics.counts, **reading.metrics.measures}
    rows = [(Text(f"{value:,}"), Name(term)) for term, value in sorted(told.items()) if term not in KNOWN]
    return [Block("others", ("", ""), rows, is_whole=True)] if rows else []


def _as_json(reading: _Reading) -> dict[str, Any]:
    metrics, runner = reading.metrics, reading.runner
    seconds = reading.span_usec / 1_000_000
    wrong = imbalances(metrics.counts)
    return {
        "version": metrics.version or None,
        "runs": runner is not None,
        "pid": None if runner is None else runner.pid,
        "since_usec": None if runner is None else runner.since_usec,
        "written_usec": metrics.written_usec,
        "is_stale": runner is not None and reading.age_usec > STALE_USEC,
        "is_balanced": not wrong,
        "imbalances": wrong,
        "problems": ([] if runner is not None else [_not_running(reading)])
        + [text for text, _style in _problems(reading)],
        "rates_seconds": seconds,
        "rates": {term: round(reading.grown(term) / seconds, 6) for term in _WORDS} if seconds else {},
        "counts": {**metrics.counts, **metrics.measures},
        "rules": [
            {"rule": rule or None, "action": action, "events": count}
            for (rule, action), count in sorted(metrics.rules.items())
        ],
    }
