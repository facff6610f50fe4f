# SPDX-License-Identifier: MIT
"""Where the words for people go: a terminal, through a pager, or a file.

Whatever comes from a process goes through `clean`: nothing of it is taken for markup, nothing moves a cursor.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import IO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from procwatchd.ctl.past.jsonlines import Skipped
from procwatchd.journal.quote import printable

WIDTH = 160  # of tables that go to no terminal
TEXT_LIMIT = 200  # characters of a value

# As journalctl has less: it ends by itself where all fits, keeps colours, and runs nothing for whoever types into it.
_LESS = {"LESS": "FRSXMK", "LESSCHARSET": "utf-8", "LESSSECURE": "1"}


class Screen(Console):
    """A console for values from anywhere: nothing is markup. Who closes it early ends the command in silence."""

    def __init__(
        self, file: IO[str] | None = None, width: int | None = None, *, is_terminal: bool | None = None
    ) -> None:
        super().__init__(
            file=file, width=width, force_terminal=is_terminal, markup=False, highlight=False, emoji=False
        )

    def on_broken_pipe(self) -> None:
        """As every other program takes it; rich by itself would exit with an error."""
        raise BrokenPipeError


def clean(value: object, style: str = "", limit: int = TEXT_LIMIT) -> Text:
    """A value as text that can be shown anywhere, not too long."""
    text = printable(value if isinstance(value, bytes | str) else str(value))
    return Text(text if len(text) <= limit else f"{text[: limit - 1]}…", style=style)


def table(*columns: str) -> Table:
    """An empty table. What is too long for a column goes on below."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def print_skipped(console: Console, skipped: Skipped) -> None:
    """What of the input was passed over, if anything."""
    if skipped.count:
        console.print(clean(f"{skipped.count} lines or entries passed over:", "yellow"))
        for one in skipped.shown:
            console.print(clean(f"  {one}", "yellow"), soft_wrap=True)


def print_problems(console: Console, problems: Sequence[str]) -> None:
    """That Sigma rules may be missing, if any."""
    if problems:
        console.print(
            f"problems with Sigma rules, which are not tried: {len(problems)}; 'procwatchctl check' tells them",
            style="yellow",
        )


def print_json(value: object) -> None:
    """One JSON object on standard output: plain ASCII, which no terminal minds."""
    print(json.dumps(value, indent=1))


@contextlib.contextmanager
def screen(*, has_pager: bool = True) -> Iterator[Console]:
    """What to print to."""
    if not sys.stdout.isatty():
        yield Screen(width=WIDTH)
        return
    pager = _start_pager() if has_pager else None
    if pager is None or pager.stdin is None:
        yield Screen()
        return
    try:
        with contextlib.suppress(BrokenPipeError), pager.stdin:
            yield Screen(pager.stdin, shutil.get_terminal_size().columns, is_terminal=True)
    finally:
        pager.wait()


def _start_pager() -> subprocess.Popen[str] | None:
    """The pager that journalctl would take; None for none."""
    try:
        command = shlex.split(os.environ.get("SYSTEMD_PAGER", os.environ.get("PAGER", "less")))
    except ValueError:  # a quote that is not closed
        return None
    if not command or command == ["cat"]:
        return None
    try:
        return subprocess.Popen(command, stdin=subprocess.PIPE, env={**os.environ, **_LESS}, encoding="utf-8")
    except OSError:
        return None
