# SPDX-License-Identifier: MIT
"""What ran in a time, as tables of who is first in what, or as JSON: what `top` shows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.bar import Bar
from rich.console import Group as Lines
from rich.console import RenderableType
from rich.text import Text

from procwatchd.ctl.show.blocks import (
    Block,
    Name,
    count_text,
    lines_of,
    rate,
    share_text,
    side_by_side,
    size_text,
    span_text,
)
from procwatchd.ctl.show.figures import date, span
from procwatchd.ctl.show.missing import dropped
from procwatchd.ctl.show.screen import clean
from procwatchd.ctl.top.activity import Activity
from procwatchd.ctl.top.groups import BY_CPU, BY_LIVES, BY_MEMORY, BY_STARTS, Group, Groups

SHORTEST_LIVES = 5  # so many are needed to have a middle

_LIFETIMES = ("<1ms", "1-10ms", "10-100ms", "0.1-1s", "1-10s", "10-60s", "1-10min", "10-60min", ">1h")


@dataclass(frozen=True, slots=True)
class Shown:
    """What ran within a time, and how the reading went. Times in µs since 1970, None where nothing was read."""

    what: str
    activity: Activity
    since_usec: int | None
    until_usec: int | None
    passed_over: int
    undecided: int
    is_filtered: bool

    @property
    def span_usec(self) -> int:
        """How long that time is."""
        return max(0, (self.until_usec or 0) - (self.since_usec or 0))


def page(shown: Shown, lines: int, width: int | None, height: int | None) -> RenderableType:
    """The whole for people, on a terminal of this size, if any; at most `lines` in each table."""
    head = list(_head(shown))
    room = None if height is None else height - lines_of(head, width) - 1
    return Lines(*head, Text(), side_by_side(_blocks(shown, lines), lines, width, room))


def _head(shown: Shown) -> Iterator[Text]:
    """What was read, how much that is, and what is missing in it."""
    activity = shown.activity
    hosts = activity.hosts.most(BY_LIVES, 1) or activity.hosts.most(BY_STARTS, 1)
    where = f"{len(activity.hosts)} hosts" if len(activity.hosts) > 1 else hosts[0][0] if hosts else ""
    title = [clean(what, "bold") for what in (shown.what, where) if what]
    is_known = shown.since_usec is not None and shown.until_usec is not None
    times = f"{date(shown.since_usec or 0)} to {date(shown.until_usec or 0)}" if is_known else "no entries"
    yield Text(" · ").join([*title, Text(times)])
    everything = activity.all
    yield Text.assemble(
        (_count(everything.starts, "program"), "bold"),
        f" started{_at(everything.starts, shown)}, ",
        (_count(everything.lives, "process", "es"), "bold"),
        f" ended{_at(everything.lives, shown)}, ",
        (f"{everything.failed:,} failed", "red" if everything.failed else ""),
        f", {everything.unknown_ends:,} ended nobody knows how" if everything.unknown_ends else "",
    )
    if activity.busiest_minute is not None:
        since, count = activity.busiest_minute
        what = _count(count, "start" if everything.starts else "end")
        yield Text(f"busiest minute: {date(since * 1_000_000).removesuffix(':00')}, with {what}")
    yield from (clean(one, "yellow") for one in _missing(shown))


def _missing(shown: Shown) -> Iterator[str]:
    """What the figures leave out."""
    absent = shown.activity.absent
    not_running_usec = absent.not_running_usec(shown.since_usec, shown.until_usec)
    if not_running_usec:
        yield f"NOT RUNNING for {span(not_running_usec)} of that time: the daemon listened to nothing"
    if absent.lost:
        where = ", ".join(f"{count:,} {place}" for place, count in sorted(absent.lost.items()))
        yield f"LOST in that time: {where} (see 'procwatchctl log event=loss')"
    if absent.blind:
        missed = "an unknown number of" if absent.missed is None else f"{absent.missed:,}"
        yield f"BLIND in that time: {_count(absent.blind, 'time')}, with {missed} forks that were not told"
    whose = ", whether they match or not" if shown.is_filtered else ""
    silenced = [f"{absent.summarised:,} events summarised{whose}"] if absent.summarised else []
    silenced += [] if absent.dropped == 0 else [dropped(absent)]
    if silenced:
        yield f"not counted here: {'; '.join(silenced)}"
    if shown.undecided:
        yield f"not counted here: {shown.undecided:,} events of which their entries do not tell whether they match"
    forgotten = _forgotten(shown.activity)
    if forgotten:
        yield f"too many names: {forgotten:,} times one that was seen rarely is in no line"
    if shown.passed_over:
        yield f"{shown.passed_over:,} lines or entries passed over"


def _forgotten(activity: Activity) -> int:
    """How often names were seen that are in no table any more; minutes are no names, and the busiest ones stay."""
    tables = (
        found for name, found in vars(activity).items() if isinstance(found, Groups) and name != "minutes"
    )
    return sum(groups.forgotten for groups in tables)


def _count(number: int, what: str, more: str = "s") -> str:
    return f"{number:,} {what}{'' if number == 1 else more}"


def _at(count: int, shown: Shown) -> str:
    text = rate(count, shown.span_usec)
    return f" ({text})" if text else ""


def _blocks(shown: Shown, lines: int) -> list[Block]:
    """The tables, those first that nobody should miss."""
    activity = shown.activity
    by = BY_STARTS if activity.all.starts else BY_LIVES
    blocks = [
        _started(activity, lines),
        _failures(activity, lines),
        _signals(activity, lines),
        _shortest(activity, lines),
        _cpu(activity, lines),
        _memory(activity, lines),
        _places("units", "unit", activity.units.most(by, lines)),
        _places("users", "user", activity.users.most(by, lines)),
        _lifetimes(activity),
    ]
    if len(activity.hosts) > 1:
        blocks.append(_places("hosts", "host", activity.hosts.most(by, lines)))
    if len(activity.summaries):
        rows = [
            (count_text(group.lives), Name(name)) for name, group in activity.summaries.most(BY_LIVES, lines)
        ]
        title = "most summarised, matching or not" if shown.is_filtered else "most summarised"
        blocks.append(Block(title, ("events", "what"), rows))
    return blocks


def _started(activity: Activity, lines: int) -> Block:
    rows = [
        (count_text(group.starts), share_text(group.starts, activity.all.starts), Name(name))
        for name, group in activity.executables.most(BY_STARTS, lines)
    ]
    return Block("most started", ("starts", "share", "executable"), rows)


def _failures(activity: Activity, lines: int) -> Block:
    rows = [
        (count_text(group.lives), Text(str(code), "red"), Name(name))
        for (name, code), group in activity.failures.most(BY_LIVES, lines)
    ]
    return Block("most failures", ("times", "code", "executable"), rows)


def _signals(activity: Activity, lines: int) -> Block:
    rows = [
        (count_text(group.lives), clean(signal, "red"), Name(name), Name(killer))
        for (signal, name, killer), group in activity.signals.most(BY_LIVES, lines)
    ]
    return Block("killed by signals", ("times", "signal", "executable", "by"), rows, names=2)


def _cpu(activity: Activity, lines: int) -> Block:
    rows = [
        (span_text(group.cpu_usec), count_text(group.cpu_lives), span_text(group.mean_cpu_usec), Name(name))
        for name, group in activity.executables.most(BY_CPU, lines)
    ]
    return Block("most CPU time", ("CPU", "known", "mean", "executable"), rows)


def _memory(activity: Activity, lines: int) -> Block:
    rows = [
        (
            size_text(group.memory_peak),
            count_text(group.memory_lives),
            size_text(group.mean_memory),
            Name(name),
        )
        for name, group in activity.executables.most(BY_MEMORY, lines)
    ]
    return Block("most memory", ("peak", "known", "mean", "executable"), rows)


def _shortest(activity: Activity, lines: int) -> Block:
    rows = [
        (span_text(group.median_usec), count_text(group.known_lifetimes), _failed(group), Name(name))
        for name, group in activity.executables.shortest(lines, SHORTEST_LIVES)
    ]
    none = f"none with {SHORTEST_LIVES} lives or more"
    return Block("shortest lives", ("median", "known", "failed", "executable"), rows, none=none)


def _places(title: str, name: str, most: list[tuple[str, Group]]) -> Block:
    rows = [
        (
            count_text(group.starts),
            count_text(group.lives),
            _failed(group),
            span_text(group.known_cpu_usec),
            Name(found),
        )
        for found, group in most
    ]
    return Block(f"busiest {title}", ("starts", "lives", "failed", "CPU", name), rows)


def _failed(group: Group) -> Text:
    return Text(f"{group.failed:,}", "red" if group.failed else "dim")


def _lifetimes(activity: Activity) -> Block:
    most = max(activity.lifetimes)
    rows = [
        (Text(name), count_text(count), Bar(max(1, most), 0, count, color="cyan"))
        for name, count in zip(_LIFETIMES, activity.lifetimes, strict=True)
    ]
    return Block("lifetimes", ("", "lives", ""), rows if most else [], is_whole=True)


def as_json(shown: Shown, lines: int) -> dict[str, Any]:
    """The same for programs."""
    activity = shown.activity
    minute = activity.busiest_minute
    seconds = shown.span_usec / 1_000_000
    by = BY_STARTS if activity.all.starts else BY_LIVES
    most = activity.executables.most
    return {
        "since_usec": shown.since_usec,
        "until_usec": shown.until_usec,
        "entries": activity.entries,
        **_group_json(activity.all),
        "starts_per_second": round(activity.all.starts / seconds, 6) if seconds else None,
        "busiest_minute": None
        if minute is None
        else {"since_usec": minute[0] * 1_000_000, "count": minute[1]},
        "lost": dict(activity.absent.lost),
        "not_running_usec": activity.absent.not_running_usec(shown.since_usec, shown.until_usec),
        "blind": activity.absent.blind,
        "missed": activity.absent.missed,
        "summarised": activity.absent.summarised,
        "dropped": activity.absent.dropped,
        "undecided": shown.undecided,
        "passed_over": shown.passed_over,
        "forgotten": _forgotten(activity),
        "most_started": _named("executable", most(BY_STARTS, lines)),
        "most_cpu": _named("executable", most(BY_CPU, lines)),
        "most_memory": _named("executable", most(BY_MEMORY, lines)),
        "shortest": _named("executable", activity.executables.shortest(lines, SHORTEST_LIVES)),
        "units": _named("unit", activity.units.most(by, lines)),
        "users": _named("user", activity.users.most(by, lines)),
        "hosts": _named("host", activity.hosts.most(by, lines)),
        "failures": _counted(("executable", "exit_code"), activity.failures, lines),
        "signals": _counted(("signal", "executable", "killer"), activity.signals, lines),
        "summaries": _counted(("what",), activity.summaries, lines),
        "lifetimes": dict(zip(_LIFETIMES, activity.lifetimes, strict=True)),
    }


def _named(what: str, most: list[tuple[str, Group]]) -> list[dict[str, Any]]:
    return [{what: name, **_lifetimes_json(group), **_group_json(group)} for name, group in most]


def _lifetimes_json(group: Group) -> dict[str, int | None]:
    """Where they are kept apart, which is for executables."""
    known = group.known_lifetimes
    return {"known_lifetimes": known, "median_usec": group.median_usec} if known else {}


def _counted(names: tuple[str, ...], groups: Groups[Any], lines: int) -> list[dict[str, Any]]:
    return [
        {**dict(zip(names, key if isinstance(key, tuple) else (key,), strict=True)), "count": group.lives}
        for key, group in groups.most(BY_LIVES, lines)
    ]


def _group_json(group: Group) -> dict[str, int | None]:
    return {
        "starts": group.starts,
        "lives": group.lives,
        "failed": group.failed,
        "unknown_ends": group.unknown_ends,
        "known_cpu": group.cpu_lives,
        "cpu_usec": group.known_cpu_usec,
        "mean_cpu_usec": group.mean_cpu_usec,
        "known_memory": group.memory_lives,
        "memory_peak": group.known_memory_peak,
        "mean_memory": group.mean_memory,
    }
