# SPDX-License-Identifier: MIT
"""How fast, how complete, how big, how true: `python -m tests.bench`, as root, with forkstat and extrace installed.

How to read the table. Ratios and shares are what counts: both programs were measured in one run on one machine,
and another machine has other microseconds. CPU figures are the median of three rounds in which the programs take
turns; `--verbose` shows each round, and how many processes others made meanwhile. Where the rounds of one program
differ by more than the programs do, or others made more than a few hundred processes, the run says little: make it
again on a quieter machine. The share of a storm that forkstat loses varies with what else the machine does.

- *vfork storm*: two workers make processes at full speed. `lost` is from procwatchd's own ledger, with what it received
  and could not write. The row below it checks that against the truth: each process of the storm is dropped by a rule
  of the shipped configuration, and the workers know how many they made; what others made can be among the
  dropped, and explains at most as many as the kernel counted. For forkstat both are from the forks by the
  workers that it printed.
- *processes*: run one after the other, with what each program logs of them in a file. A program that does not write all
  of it, or not the arguments, did less for its CPU time: hence the rows below. The arguments are a race against the
  process's end. procwatchd runs in real time where it may; forkstat does with -r: hence both.
- *RSS*: two seconds after the start, and after each slice of a storm once that was worked off. In between there is
  a backlog, which shows as the most it ever was. It is flat if the second half of the events adds nothing to speak of.
- *replay*: the worker alone, with made-up events, in one process. No system calls, no listener: what is left is what
  could be made faster in Python. The entry is one of an exec, with its arguments.

- *what is to be told*, the second table: situations whose truth is known, each made once while the three programs
  listen, and what each program says of it: ✓ right and all of it, ✗ wrong or not all of it. At the overrun all three
  were stopped meanwhile; what was lost is what the storm made without what of it was told, and at most what others
  can have made on top. Last, everybody is blinded for up to twelve seconds, as a fault of the kernel lets anybody
  do, and all of the machine's listeners with them; the benchmark puts it right again.

The columns `target` are goals and nothing is asserted. Exit status: 0 measured, 1 something is missing or procwatchd
tells a situation wrongly, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.bench import cost, memory, replay, report, situations, storm
from tests.bench.load import BenchError, Load


@dataclass(frozen=True, slots=True)
class Size:
    """How much of everything is measured."""

    storm_seconds: float = 10.0
    processes: int = 10_000
    memory_events: int = 1_000_000
    slice_seconds: float = 2.0
    replayed_events: int = 200_000
    entries: int = 20_000


FULL = Size()
QUICK = Size(
    storm_seconds=2.0,
    processes=2_000,
    memory_events=200_000,
    slice_seconds=0.5,
    replayed_events=40_000,
    entries=5_000,
)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; gives its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measures procwatchd.")
    parser.add_argument("--quick", action="store_true", help="less of everything, in under two minutes")
    parser.add_argument("--verbose", action="store_true", help="show each round and each sample, too")
    parser.add_argument(
        "--json", action="store_true", help="add the results as one JSON object, on the last line"
    )
    options = parser.parse_args(arguments)
    try:
        _check_machine()
        results = measure(QUICK if options.quick else FULL)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    print(report.render(results, verbose=options.verbose))
    if options.json:
        print(json.dumps(report.as_json(results)))
    if results.wrong:
        print(
            f"bench: of {len(results.situations)} situations procwatchd tells {results.wrong} wrongly",
            file=sys.stderr,
        )
    return 1 if results.wrong else 0


def measure(size: Size) -> report.Results:
    """Everything, one after the other; says on standard error what comes next."""
    with tempfile.TemporaryDirectory(prefix="procwatchd-bench-") as directory:
        load = Load(Path(directory))
        _say("replaying events in the worker")
        replayed = replay.measure(size.replayed_events, size.entries)
        _say("storm: procwatchd")
        daemon_storm = storm.measure_daemon(load, size.storm_seconds)
        _say("storm: forkstat")
        forkstat_storm = storm.measure_forkstat(load, size.storm_seconds)
        _say("memory of procwatchd")
        remembered = memory.measure(load, events=size.memory_events, slice_seconds=size.slice_seconds)
        costs = []
        for forkstat in ("-x -e exec,exit", "-r -x -e exec,exit"):
            _say(f"short processes, {cost.ROUNDS} rounds of procwatchd and of forkstat {forkstat}")
            costs.append(cost.measure(load, size.processes, forkstat))
        _say("situations: procwatchd, forkstat and extrace")
        told = situations.measure(load, Path(directory))
    return report.Results(daemon_storm, forkstat_storm, costs, remembered, replayed, told)


def _check_machine() -> None:
    if os.geteuid() != 0:
        raise BenchError("only root may listen")
    for program in ("forkstat", "extrace"):
        if shutil.which(program) is None:
            raise BenchError(f"{program} is not installed: apt-get install {program}")


def _say(what: str) -> None:
    print(f"bench: {what}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
