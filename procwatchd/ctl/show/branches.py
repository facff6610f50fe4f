# SPDX-License-Identifier: MIT
"""Trees of processes as lines for people: numbers in columns, and behind them who started what."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from rich.console import Console
from rich.text import Text

from procwatchd.ctl.lives.forest import VARIOUS, Node
from procwatchd.ctl.lives.lives import Life
from procwatchd.ctl.show.figures import clock, date, size, span
from procwatchd.ctl.show.screen import clean

NARROW, NARROWEST = 90, 50  # terminals that have room for some of the columns alone, and for none
WHOLE = 1 << 20  # characters of a line where no terminal cuts it

_UNSEEN, _BAD, _LIVING, _WHOSE = "dim", "red", "green", "cyan"

_HOMES = ("/usr/", "/bin/", "/sbin/", "/lib", "/opt/")
_SHELLS = ("bash", "dash", "busybox")  # that are called sh
_VERSION = re.compile(r"[-.0-9]*")

Cell: TypeAlias = tuple[str, str]  # its text, which is clean, and its style
Column: TypeAlias = tuple[str, Callable[[Node], Cell]]


@dataclass(frozen=True, slots=True)
class _Guides:
    fork: str = "├─"
    last: str = "└─"
    along: str = "│ "
    times: str = "×"  # noqa: RUF001  as many of a thing are written
    to: str = "–"  # noqa: RUF001  as ranges are written
    more: str = "…"


_ASCII = _Guides("|-", "`-", "| ", "x", "-", "..")


@dataclass(frozen=True, slots=True)
class _Whose:
    """Whose the nearest are above a node of whom that is known. The first process is root's."""

    user: str = "root"
    unit: str = ""
    container: str = ""


@dataclass(frozen=True, slots=True)
class _Todo:
    """A node, or so many that are in none, to be written."""

    node: Node | Text
    whose: _Whose = _Whose()
    guides: str = ""
    guides_below: str = ""


@dataclass(frozen=True, slots=True)
class Times:
    """Whether times need their day, whether who has no end lives, and when the last entry was."""

    has_days: bool
    has_ends: bool
    last_usec: int


def print_trees(console: Console, trees: Sequence[Node], times: Times) -> None:
    """Print them, each line cut to the terminal's width; whole where there is no terminal."""
    guides = _ASCII if console.options.ascii_only else _Guides()
    columns = _columns(console.width if console.is_terminal else None, guides, times)
    room = console.width // 3 if console.is_terminal else WHOLE
    rows = [*_rows(trees, columns, guides, room)]
    heads: list[Cell] = [(name, "bold") for name, _cell in columns]
    widths = [
        max(len(cell[0]) for cell in cells) for cells in zip(heads, *(row[0] for row in rows), strict=True)
    ]
    for cells, text in ((heads, Text("COMMAND", "bold")), *rows):
        line = Text()
        for (content, style), (name, _cell), width in zip(cells, columns, widths, strict=True):
            line.append(content.ljust(width) if name == "STATUS" else content.rjust(width), style)
            line.append("  ")
        print_line(console, line.append_text(text))


def print_line(console: Console, line: Text) -> None:
    """Print a line, cut to the terminal's width; whole where there is no terminal."""
    if console.is_terminal:
        line.truncate(console.width, overflow="ellipsis")
    console.print(line, soft_wrap=True)


def _columns(width: int | None, guides: _Guides, times: Times) -> list[Column]:
    when = date if times.has_days else clock

    def ran(node: Node) -> Cell:
        if node.living and times.has_ends and not node.is_folded and node.is_since_known:
            return f"{span(max(0, times.last_usec - node.since_usec))}+", ""
        shortest, longest = span(node.shortest_usec), span(node.longest_usec)
        return (shortest if shortest == longest else f"{shortest}{guides.to}{longest}"), ""

    def begun(node: Node) -> Cell:
        if not node.seen:
            return "", ""
        return f"{'' if node.is_since_known else '<'}{when(node.since_usec)}", "dim"

    pid: Column = ("PID", lambda node: ("" if node.is_folded else str(node.life.pid), _style(node)))
    start: Column = ("START", begun)
    cpu: Column = ("CPU", lambda node: (span(node.cpu_usec), ""))
    status: Column = ("STATUS", lambda node: _status(node, guides, has_ends=times.has_ends))
    memory: Column = ("MEMORY", lambda node: (size(node.memory_peak), ""))
    if width is not None and width < NARROWEST:
        return []
    if width is not None and width < NARROW:
        return [pid, start, ("RAN", ran), status]
    return [pid, start, ("RAN", ran), cpu, memory, status]


def _status(node: Node, guides: _Guides, *, has_ends: bool) -> Cell:
    if not node.seen:
        return "", ""
    living = node.living if has_ends else 0
    if node.failed:
        (end, count), *others = node.ends.items()
        if not node.is_folded:
            return end, _BAD
        failed = f"{node.failed} failed" if others else f"{count} {guides.times} {end}"
        return (f"{failed}, {living} living" if living else failed), _BAD
    if node.living and not has_ends:
        return "", ""
    if node.living:
        return (f"{node.living} living" if node.is_folded else "living"), _LIVING
    return ("ok" if node.succeeded == node.seen else "ended"), "dim"


def _rows(
    trees: Sequence[Node], columns: list[Column], guides: _Guides, room: int
) -> Iterator[tuple[list[Cell], Text]]:
    """The lines; where guides take more than `room`, the first of them are left out."""
    todo = [_Todo(node) for node in reversed(trees)]
    while todo:
        one = todo.pop()
        lead = one.guides if len(one.guides) <= room else guides.more + one.guides[-room:]
        if isinstance(one.node, Text):
            yield [("", "")] * len(columns), Text.assemble((lead, "dim"), one.node)
            continue
        label = _label(one.node, one.whose, guides)
        yield [cell(one.node) for _name, cell in columns], Text.assemble((lead, "dim"), label)
        todo += reversed([*_below(one.node, one, guides)])


def _below(node: Node, at: _Todo, guides: _Guides) -> Iterator[_Todo]:
    """What is to be written below a node."""
    whose = _Whose(
        node.user or at.whose.user, node.unit or at.whose.unit, node.container or at.whose.container
    )
    children: list[Node | Text] = [*node.children]
    if node.more:
        failed = f", {node.more_failed} of them failed" if node.more_failed else ""
        children.append(Text(f"and {node.more} more{failed}", "yellow"))
    for child in children[:-1]:
        yield _Todo(child, whose, at.guides_below + guides.fork, at.guides_below + guides.along)
    for child in children[-1:]:
        yield _Todo(child, whose, at.guides_below + guides.last, at.guides_below + " " * len(guides.along))


def _label(node: Node, above: _Whose, guides: _Guides) -> Text:
    """What it is, and whose where that is another's than above."""
    text = Text()
    if node.is_folded:
        name = posixpath.basename(node.kind) if node.kind.startswith("/") else node.kind
        text.append_text(clean(name, f"bold {_style(node)}"))
        text.append(f" {guides.times} {node.count}", f"bold {_style(node)}")
        text.append(f"{_ends(node, guides)}  ", _BAD)
    if whose := _other(node, above):
        text.append_text(clean(f"({whose}) ", _WHOSE))
    if node.is_folded:
        text.append("such as ", "dim")
    return text.append_text(_command(node)).append_text(clean(_killer(node.life), _BAD))


def _style(node: Node) -> str:
    return "" if node.seen else _UNSEEN


def _ends(node: Node, guides: _Guides) -> str:
    """How those that failed ended, where that is not in the column."""
    if len(node.ends) < 2:
        return ""
    return "  " + ", ".join(f"{count} {guides.times} {end}" for end, count in node.ends.items())


def _other(node: Node, above: _Whose) -> str:
    words = []
    for name in ("user", "unit", "container"):
        value = getattr(node, name)
        if value and value != getattr(above, name):
            words.append(f"various {name}s" if value == VARIOUS else value)
    return " ".join(words)


def _command(node: Node) -> Text:
    life = node.life
    style = "dim" if node.is_folded else _style(node)
    exe = _hidden_exe(life)
    return Text.assemble(clean(f"{exe}: " if exe else "", style, WHOLE), clean(life.command, style, WHOLE))


def _hidden_exe(life: Life) -> str:
    """What runs, where the command line does not say so: a process chooses its first word."""
    first = life.command.split(" ", 1)[0]
    if not life.exe or first == life.exe:
        return ""
    if not life.exe.startswith(_HOMES):
        return life.exe
    name, said = posixpath.basename(life.exe), posixpath.basename(first).removeprefix("-")
    is_version = bool(said) and name.startswith(said) and _VERSION.fullmatch(name, len(said)) is not None
    return "" if is_version or (said == "sh" and name in _SHELLS) else name


def _killer(life: Life) -> str:
    if life.is_oom_killed:
        return "  (the kernel was out of memory)"
    if not life.exit_signal or not life.killer:
        return ""
    is_itself = life.killer.endswith(f"[{life.pid}]")
    return f"  ({life.exit_signal} from {'itself' if is_itself else life.killer})"
