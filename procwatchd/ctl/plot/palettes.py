# SPDX-License-Identifier: MIT
"""Which colours the bars of a picture have, and what they mean; what they look like says plot.css."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from procwatchd.ctl.lives.lives import Life
from procwatchd.ctl.plot.timeline import Kind

KINDS_LIMIT = 8  # units or users with a colour of their own
PLAIN = "k0"  # the style of what says nothing


@dataclass(frozen=True, slots=True)
class Palette:
    """How bars get their colours: a word for each process, and by how many there are of each, what that looks like."""

    word_of: Callable[[Life], str]
    kinds_of: Callable[[Counter[str]], Callable[[str], Kind]]


_STATUSES = {
    "living": Kind("k1", "living"),
    "well": Kind("k2", "ended with code 0"),
    "unknown": Kind(PLAIN, "ended, not known how"),
    "code": Kind("k4", "failed: another code"),
    "signal": Kind("k5", "ended by a signal"),
    "oom": Kind("k6", "killed, out of memory"),
}


def _status(life: Life) -> str:
    if life.is_oom_killed:
        return "oom"
    if life.exit_signal:
        return "signal"
    if life.exit_code is not None:
        return "code" if life.exit_code else "well"
    return "living" if life.until_usec is None else "unknown"


def _by_name(nothing: str, counts: Counter[str]) -> Callable[[str], Kind]:
    """Colours for the names that most have."""
    most = sorted(filter(None, counts), key=lambda name: (-counts[name], name))
    kinds = {name: Kind(f"k{at}", name) for at, name in enumerate(most[:KINDS_LIMIT], 1)}
    other = Kind("k9", f"{len(most) - KINDS_LIMIT} others")
    kinds[""] = Kind(PLAIN, nothing)
    return lambda name: kinds.get(name, other)


PALETTES = {
    "status": Palette(_status, lambda _counts: _STATUSES.__getitem__),
    "unit": Palette(lambda life: life.unit, partial(_by_name, "no unit")),
    "user": Palette(lambda life: life.user, partial(_by_name, "user not known")),
}
