# SPDX-License-Identifier: MIT
"""Lists of CPUs, as the kernel writes them: `0,2-3`."""

from __future__ import annotations

import contextlib
import os

_DIRECTORY = "/sys/devices/system/cpu"


def isolated() -> set[int]:
    """Those that the administrator keeps free of whatever is not theirs."""
    return _listed("isolated") | _listed("nohz_full")


def possible() -> int:
    """How many numbers CPUs can ever have on this machine, plugged or not."""
    return max(max(_listed("possible"), default=0) + 1, os.cpu_count() or 1)


def parse_cpus(text: str) -> set[int]:
    """The numbers in a list; what is no number is left out."""
    cpus: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first.isdigit() and (last or first).isdigit():
            cpus |= set(range(int(first), int(last or first) + 1))
    return cpus


def format_cpus(cpus: set[int]) -> str:
    """The list of these numbers."""
    ranges: list[list[int]] = []
    for cpu in sorted(cpus):
        if ranges and ranges[-1][1] == cpu - 1:
            ranges[-1][1] = cpu
        else:
            ranges.append([cpu, cpu])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def _listed(name: str) -> set[int]:
    with contextlib.suppress(OSError), open(f"{_DIRECTORY}/{name}", encoding="ascii") as file:
        return parse_cpus(file.read())
    return set()
