# SPDX-License-Identifier: MIT
"""Numbers, spans and times for people."""

from __future__ import annotations

import time

from procwatchd.journal.message import duration

_UNITS = "KMGT"


def span(usec: int | None) -> str:
    """A span of time as entries have it: 840us, 3.2ms, 5min 3s; "" for None."""
    return "" if usec is None else duration(1000 * usec)


def size(count: int | None) -> str:
    """So many bytes, as systemctl has it: 840B, 1.7M, 24M; "" for None."""
    if count is None:
        return ""
    value, unit = float(count), "B"
    for larger in _UNITS:
        if value < 1000:
            break
        value, unit = value / 1024, larger
    return f"{value:.1f}{unit}" if value < 9.95 and unit != "B" else f"{value:.0f}{unit}"


def clock(usec: int) -> str:
    """A time of day, by the local zone: 15:04:05."""
    return _local("%H:%M:%S", usec)


def date(usec: int) -> str:
    """A time with its day, as journalctl has it: Nov 21 15:04:05; with the year where it is not this one."""
    is_this_year = _local("%Y", usec) == time.strftime("%Y")
    return _local("%b %d %H:%M:%S" if is_this_year else "%Y-%m-%d %H:%M:%S", usec)


def _local(form: str, usec: int) -> str:
    try:
        return time.strftime(form, time.localtime(max(0, usec) // 1_000_000))
    except (OverflowError, OSError, ValueError):  # of an entry that says so
        return "?"
