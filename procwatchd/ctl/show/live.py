# SPDX-License-Identifier: MIT
"""What is shown again and again: on a terminal in one place, else one after the other."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable
from typing import TypeVar

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from procwatchd.ctl.show.screen import screen

REFRESH_SECONDS = 2.0

State = TypeVar("State")


def show_live(
    states: Iterable[State], show: Callable[[State, int | None, int | None], RenderableType]
) -> None:
    """Show each of them as it comes; `show` is told the terminal's width and height, None for no terminal."""
    with screen(has_pager=False) as console:
        if not console.is_terminal:
            for state in states:
                console.print(show(state, None, None), Text(), sep="\n")
            return
        # Else the terminal would stay as it is without us.
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.default_int_handler)
        _show_on_terminal(console, states, show)


def _show_on_terminal(
    console: Console,
    states: Iterable[State],
    show: Callable[[State, int | None, int | None], RenderableType],
) -> None:
    latest = None
    with Live(console=console, screen=True, auto_refresh=False) as live:
        for latest in states:
            # Its size may have changed meanwhile.
            live.update(show(latest, console.width, console.height), refresh=True)
    if latest is not None:
        console.print(show(latest, console.width, None))
