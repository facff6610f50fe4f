# SPDX-License-Identifier: MIT
"""The package in virtual machines: `python -m tests.e2e`, as root, with what the machines need (`make e2e`).

Debian 13 is booted with one of several kernels; there a scenario (guest/) is run: installs the package, uses it as its
users would, and looks at what it does. Exit status: 0 all was as it must be, 1 something was not.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.e2e import images
from tests.e2e.machine import Machine

ROOT = Path(__file__).resolve().parents[2]


class Run(NamedTuple):
    """One scenario on one kernel."""

    kernel: str
    scenario: str


# The longest first.
PLAN = (Run("6.12", "story"), Run("6.1", "kernel"), Run("newest", "kernel"), Run("6.12", "faults"))

_printing = threading.Lock()


def main() -> int:
    """Run what was asked for; gives the exit status."""
    options = _parse()
    runs = [run for run in PLAN if _is_wanted(run, options)]
    if not runs:
        print(
            "nothing of the plan is like that: "
            + ", ".join(f"{run.scenario} on {run.kernel}" for run in PLAN)
        )
        return 2
    deb = options.deb or images.built()
    root = images.root(options.cache, deb)
    kernels = {run.kernel: images.kernel(options.cache, run.kernel) for run in runs}

    def is_good(run: Run) -> bool:
        with _directory(run, options) as directory:
            return _run(run, kernels[run.kernel], root, directory, deb)

    with ThreadPoolExecutor(options.jobs) as pool:
        good = list(pool.map(is_good, runs))
    return 0 if all(good) else 1


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.e2e", description="The package in virtual machines."
    )
    parser.add_argument(
        "--deb", type=Path, metavar="FILE", help="the package (default: what `make deb` made)"
    )
    parser.add_argument("--kernel", action="append", choices=images.KERNELS, help="on this kernel alone")
    parser.add_argument("--scenario", action="append", metavar="NAME", help="this scenario alone")
    parser.add_argument(
        "--jobs", type=int, default=2, metavar="N", help="so many at once (default: %(default)s)"
    )
    parser.add_argument(
        "--cache",
        type=Path,
        default=ROOT / ".cache/e2e",
        metavar="DIRECTORY",
        help="where kernels and root file systems are kept, and the guests' disks while they run",
    )
    parser.add_argument(
        "--keep",
        type=Path,
        metavar="DIRECTORY",
        help="leave the disks and what the guests wrote there, in place of an earlier run's",
    )
    return parser.parse_args()


def _is_wanted(run: Run, options: argparse.Namespace) -> bool:
    return (not options.kernel or run.kernel in options.kernel) and (
        not options.scenario or run.scenario in options.scenario
    )


@contextmanager
def _directory(run: Run, options: argparse.Namespace) -> Iterator[Path]:
    """An empty directory for one run: gone afterwards, if it is not to be kept."""
    if options.keep is None:
        with images.work_directory(options.cache) as directory:
            yield directory
        return
    kept: Path = options.keep / f"{run.kernel}-{run.scenario}"
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir(parents=True)
    yield kept


def _run(run: Run, kernel: Path, root: Path, directory: Path, deb: Path) -> bool:
    """One guest from its disk to its end; says what it does, and all there is to know if it fails."""
    name = f"{run.kernel} {run.scenario}"
    began = time.monotonic()
    machine = Machine(directory, kernel, run.scenario, lambda line: _say(f"[{name}] {line}"))
    images.disk(machine.disk, root, deb)
    outcome = machine.run()
    seconds = time.monotonic() - began
    if not outcome.is_good:
        _say(machine.story())
    end = "" if outcome.ended else "; it did not come to its end"
    _say(f"[{name}] {outcome.passed} passed, {len(outcome.failed)} failed in {seconds:.0f} s{end}")
    for line in outcome.failed:
        _say(f"[{name}] {line}")
    return outcome.is_good


def _say(text: str) -> None:
    with _printing:
        print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
