# SPDX-License-Identifier: MIT
"""Where the marks of a time axis are, and what stands beside them."""

from __future__ import annotations

import time
from dataclasses import dataclass

from procwatchd.ctl.plot.timeline import Window

TICKS = 9  # at most, roughly

_SECOND, _MINUTE, _HOUR, _DAY = 1_000_000, 60_000_000, 3_600_000_000, 86_400_000_000
_YEAR = 365 * _DAY
# Up to a second 1, 2 and 5 and their multiples; then what clocks have.
_STEPS = (
    *(digit * 10**power for power in range(6) for digit in (1, 2, 5)),
    *(count * _SECOND for count in (1, 2, 5, 10, 15, 30)),
    *(count * _MINUTE for count in (1, 2, 5, 10, 15, 30)),
    *(count * _HOUR for count in (1, 2, 3, 6, 12)),
    *(count * _DAY for count in (1, 2, 7, 14, 30, 90)),
)


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark: when, in µs since 1970, and what it says."""

    usec: int
    text: str


def clock_ticks(window: Window) -> list[Tick]:
    """Marks where a clock shows whole numbers, by the local zone."""
    step = _step(window)
    zone = time.localtime(window.since_usec // _SECOND).tm_gmtoff * _SECOND
    first = -(-(window.since_usec + zone) // step) * step - zone
    return [Tick(usec, _clock(usec, step)) for usec in range(first, window.until_usec + 1, step)]


def span_ticks(window: Window) -> list[Tick]:
    """Marks at whole spans since the beginning."""
    step = _step(window)
    since = window.since_usec
    return [Tick(usec, f"+{_span(usec - since, step)}") for usec in range(since, window.until_usec + 1, step)]


def exact(usec: int) -> str:
    """A time to the microsecond, by the local zone."""
    return f"{time.strftime('%F %T', time.localtime(usec // _SECOND))}.{usec % _SECOND:06}"


def _step(window: Window) -> int:
    wanted = window.span_usec / TICKS
    return next((step for step in _STEPS if step >= wanted), -int(-wanted // _YEAR) * _YEAR)


def _clock(usec: int, step: int) -> str:
    at = time.localtime(usec // _SECOND)
    if step >= 90 * _DAY:
        return time.strftime("%F", at)
    if step >= _DAY:
        return time.strftime("%b %d", at)
    if step >= _MINUTE:
        return time.strftime("%H:%M", at) if at.tm_hour or at.tm_min else time.strftime("%b %d", at)
    return time.strftime("%T", at) + _fraction(usec % _SECOND, step)


def _span(usec: int, step: int) -> str:
    """A span to the digits that a step has: 0s, 1.50s, 2h 30min."""
    if usec < _MINUTE:
        return f"{usec // _SECOND}{_fraction(usec % _SECOND, step)}s"
    seconds = usec // _SECOND
    parts = (
        (seconds // 86_400, "d"),
        (seconds // 3_600 % 24, "h"),
        (seconds // 60 % 60, "min"),
    )
    rest = f"{seconds % 60}{_fraction(usec % _SECOND, step)}"
    words = [f"{count}{unit}" for count, unit in parts if count]
    return " ".join([*words, f"{rest}s"] if float(rest) else words)


def _fraction(usec: int, step: int) -> str:
    """What is behind the point, as far as a step goes; "" where that is whole seconds."""
    digits = f"{usec:06}"
    while step % 10 == 0 and len(digits) > 0:
        step, digits = step // 10, digits[:-1]
    return f".{digits}" if digits else ""
