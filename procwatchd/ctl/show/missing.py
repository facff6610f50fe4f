# SPDX-License-Identifier: MIT
"""What entries say is missing in them, in words."""

from __future__ import annotations

from procwatchd.ctl.past.absent import Absent
from procwatchd.ctl.show.figures import date


def dropped(absent: Absent) -> str:
    """How many events rules dropped, and of when that is known; or that nothing tells."""
    if absent.dropped is None:
        return "how many rules dropped is not told"
    text = f"dropped by rules at least {absent.dropped}"
    if not absent.dropped_since_usec or not absent.dropped_until_usec:
        return text
    return f"{text}, those from {date(absent.dropped_since_usec)} to {date(absent.dropped_until_usec)}"
