# SPDX-License-Identifier: MIT
"""The file that the daemon writes for Prometheus, and who has its directory, read by others.

Facts:
- The daemon writes the file anew each minute, and leaves it where it is when it stops [daemon.py, procwatchd.service].
- While it runs it has a lock (flock) on `lock` beside it; /proc/locks shows who has one, by device and inode, to all
  [proc(5)].
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass

from procwatchd.ctl.errors import CtlError
from procwatchd.kernel.clock import NS_PER_TICK
from procwatchd.runtime import RUNTIME_DIRECTORY

METRICS_FILE = f"{RUNTIME_DIRECTORY}/metrics.prom"

# Limits.
SIZE_LIMIT_BYTES = 1 << 20
LOCKS_LIMIT_BYTES = 16 << 20

_SAMPLE = re.compile(
    r"procwatchd_([a-z][a-z0-9_]{0,60}?)(_total)?(?:\{([^{}]{0,400})\})? ([0-9]{1,19})(\.[0-9]{1,19})?",
    re.ASCII,
)
_LABEL = re.compile(r'([a-z]+)="([^"\\\x00-\x1f]{0,100})"')
_RULE = "RULE_EVENTS"  # by rule, and what that did with them
_INFO = "INFO"  # of this daemon: its version


@dataclass(frozen=True, slots=True)
class Metrics:
    """What the daemon counted since it started: by term, as in procwatchd(8), and by rule and action.

    `measures` are numbers that are no counts, by their names; what comes by labels that are not known here is in none.
    `written_usec` is when it wrote that, since 1970; `version` is "" where it is not told; `odd` lines are none of its.
    """

    counts: Mapping[str, int]
    rules: Mapping[tuple[str, str], int]
    version: str
    written_usec: int
    odd: int
    measures: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Runner:
    """The daemon that runs with a runtime directory; since when, in µs since 1970, where that can be seen."""

    pid: int
    since_usec: int | None


def read_metrics(path: str = METRICS_FILE) -> Metrics:
    """What is in the file. Raises CtlError where there is none, or it is another one."""
    text, written_usec = _read(path)
    counts: dict[str, int] = {}
    measures: dict[str, float] = {}
    rules: dict[tuple[str, str], int] = {}
    version, odd = "", 0
    for line in text.splitlines():
        sample = _SAMPLE.fullmatch(line)
        if sample is None:
            odd += bool(line.strip()) and not line.startswith("#")
            continue
        term, labels = sample[1].upper(), dict(_LABEL.findall(sample[3] or ""))
        if term == _RULE and "rule" in labels and sample[5] is None:
            rules[labels["rule"], labels.get("action", "")] = int(sample[4])
        elif term == _INFO:
            version = labels.get("version", "")
        elif sample[3] is None and sample[5] is None:
            counts[term] = int(sample[4])
        elif sample[3] is None:
            measures[term] = float(sample[4] + sample[5])
    if not counts:
        raise CtlError(f"{path} has no metrics of procwatchd's")
    return Metrics(counts, rules, version, written_usec, odd, measures)


def _read(path: str) -> tuple[str, int]:
    """The file's text, and when it was written."""
    try:
        # What is no file may have nobody at its other end.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise CtlError(f"{path} is no file")
            raw = file.read(SIZE_LIMIT_BYTES + 1)
    except FileNotFoundError:
        where = "procwatchd does not run here, or not as a service: " if path == METRICS_FILE else ""
        raise CtlError(f"{where}there is no {path}") from None
    except (OSError, ValueError) as error:
        raise CtlError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    if len(raw) > SIZE_LIMIT_BYTES:
        raise CtlError(
            f"{path} is longer than {SIZE_LIMIT_BYTES} bytes: these are not procwatchd's metrics alone"
        )
    return raw.decode("utf-8", "replace"), status.st_mtime_ns // 1000


def find_runner(metrics_file: str, proc: str = "/proc") -> Runner | None:
    """Who runs with the directory that this file is in; None for nobody, or where the file is a copy."""
    try:
        lock = os.stat(os.path.join(os.path.dirname(metrics_file), "lock"))
        with open(f"{proc}/locks", encoding="ascii", errors="replace") as file:
            locks = file.read(LOCKS_LIMIT_BYTES)
    except (OSError, ValueError):
        return None
    place = f"{os.major(lock.st_dev):02x}:{os.minor(lock.st_dev):02x}:{lock.st_ino}"
    for line in locks.splitlines():
        words = line.split()
        # 1: FLOCK  ADVISORY  WRITE 812 00:19:4711 0 EOF
        if len(words) >= 6 and words[1] == "FLOCK" and words[5] == place and words[4].isdigit():
            return Runner(int(words[4]), _started_usec(f"{proc}/{words[4]}"))
    return None


def _started_usec(process: str) -> int | None:
    try:
        with open(f"{process}/stat", "rb") as file:
            start_time = int(file.read(4096).rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None
    age_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - start_time * NS_PER_TICK
    return (time.time_ns() - age_ns) // 1000
