# SPDX-License-Identifier: MIT
"""How fast, how complete, how big, how true: `python -m tests.bench`, as root, with the peers installed (`make bench`).

How to read the tables. Ratios and shares are what counts: all programs were measured in one run on one machine,
and another machine has other microseconds. CPU figures and times are the medians of rounds in which the programs take
turns; `--verbose` shows each round. Where the rounds of one program differ by more than the programs do, or others
made more than a few hundred processes, the run says little: make it again on a quieter machine.

- *arguments*: programs that end at once, each with arguments of its own; a column is the share of execs that a program
  tells with them, beside the right PID. `procwatchd` has `arguments: auto`, its recorder where the kernel has what it
  takes; `procwatchd, proc` reads /proc alone. forkstat with -r runs in real time. execsnoop.bt is bpftrace's.
- *storms*: two workers make processes or threads at full speed. `lost` is from procwatchd's own ledger, with what it
  received and could not write; the ledger is exact if its equations hold and agree with what the workers made and
  the kernel counted. What the others lost is the kernel's count of what their sockets had no room for.
- *cost*: processes one after the other, with exec and exit of each in a real journald of the benchmark's own. forkstat
  needs systemd-cat for that, whose CPU time is part of it. Who loses arguments, or events, does less for its CPU time.
- *threads*: nobody asked for them, so that the best is to be told nothing.
- *slowdown*: the program that makes processes has one CPU, who watches has the other. auditd has a rule on execve, and
  the kernel's audit is as it was afterwards.
- *latency*: from the clock before posix_spawn to the entry; who waits for journald to tell waits for its timer, too.
- *memory*: RSS two seconds after the start, after each slice of a storm once that was worked off, and with many who
  live. It is flat if the second half of the events adds nothing to speak of.
- *idle*: how often all threads were woken up. What others do in that time counts as well: see the note.
- *sigma*: the same cost, of execs with long command lines, without and with 144 Sigma rules, and without the redaction
  and the limit that are shipped.
- *rules*: records of many programs, decided by a few rules and by many of the same kinds.
- *replay*: the worker alone, with made-up events, in one process. No system calls, no listener: what is left is what
  could be made faster in Python. The entry is one of an exec, with its arguments.
- *ctl*: procwatchctl reads a journal of many entries, beside journalctl, which does nothing with them. Memory is what
  is the program's own, without the mapped journal.
- *situations*: their truth is known, each made once while three programs listen, and what each says of
  it: ✓ right and all of it, ✗ wrong or not all of it. At the overrun all three were stopped meanwhile; what was
  lost is what the storm made without what of it was told, and at most what others can have made on top. Last,
  everybody is blinded for up to twelve seconds, as a fault of the kernel lets anybody do, and all of the machine's
  listeners with them; the benchmark puts it right again.

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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.bench import (
    arguments,
    cost,
    ctl,
    idle,
    latency,
    memory,
    replay,
    report,
    rules,
    sigma,
    situations,
    slowdown,
    storm,
    threads,
)
from tests.bench.load import BenchError, Load
from tests.bench.report import Outcome

PEERS = ("forkstat", "extrace", "bpftrace", "auditctl")


@dataclass(frozen=True, slots=True)
class Size:
    """How much of everything is measured."""

    execs: int = 1_500
    storm_seconds: float = 10.0
    peer_storm_seconds: float = 3.0
    processes: int = 10_000
    slowdown_rounds: int = 3
    threads: int = 50_000
    latency_processes: int = 300
    memory_events: int = 1_000_000
    slice_seconds: float = 2.0
    living: int = 50_000
    idle_seconds: float = 20.0
    rule_records: int = 5_000
    replayed_events: int = 200_000
    entries: int = 20_000
    read_entries: int = 1_000_000


FULL = Size()
QUICK = Size(
    execs=200,
    storm_seconds=1.0,
    peer_storm_seconds=0.5,
    processes=1_000,
    slowdown_rounds=1,
    threads=5_000,
    latency_processes=60,
    memory_events=100_000,
    slice_seconds=1.0,
    living=5_000,
    idle_seconds=4.0,
    rule_records=1_000,
    replayed_events=40_000,
    entries=5_000,
    read_entries=50_000,
)


@dataclass(frozen=True, slots=True)
class Bench:
    """What every subject is measured with; the directory is for what is compiled."""

    load: Load
    directory: Path
    size: Size


def main(arguments: list[str] | None = None) -> int:
    """Run the command; gives its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measures procwatchd.")
    parser.add_argument("--quick", action="store_true", help="less of everything, in about two minutes")
    parser.add_argument("--only", action="append", choices=SUBJECTS, metavar="NAME", help=_HELP_ONLY)
    parser.add_argument("--verbose", action="store_true", help="show each round and each sample, too")
    parser.add_argument(
        "--json", action="store_true", help="add the results as one JSON object, on the last line"
    )
    options = parser.parse_args(arguments)
    try:
        _check_machine()
        outcomes = measure(options.only or list(SUBJECTS), QUICK if options.quick else FULL)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    print(report.render_all(outcomes, verbose=options.verbose))
    if options.json:
        print(json.dumps(report.as_json(outcomes)))
    told = [one for outcome in outcomes for one in outcome.figures if isinstance(one, situations.Situation)]
    if wrong := report.wrong_situations(told):
        _say(f"of {len(told)} situations procwatchd tells {wrong} wrongly")
    return 1 if wrong else 0


def measure(names: list[str], size: Size) -> list[Outcome]:
    """These subjects, one after the other; says on standard error what comes next."""
    with tempfile.TemporaryDirectory(prefix="procwatchd-bench-") as name:
        directory = Path(name)
        bench = Bench(Load(directory), directory, size)
        outcomes = []
        for subject in names:
            _say(subject)
            outcomes.append(SUBJECTS[subject](bench))
    return outcomes


def _measure_arguments(bench: Bench) -> Outcome:
    captured = arguments.measure(bench.load, processes=bench.size.execs, say=_say)
    return Outcome("arguments", (captured,), arguments.table(captured))


def _measure_storms(bench: Bench) -> Outcome:
    size = bench.size
    storms = storm.measure(
        bench.load, seconds=size.storm_seconds, peer_seconds=size.peer_storm_seconds, say=_say
    )
    return Outcome("storms", (storms,), storm.table(storms))


def _measure_cost(bench: Bench) -> Outcome:
    costs = cost.measure(bench.load, bench.size.processes)
    return Outcome("cost", (costs,), cost.table(costs))


def _measure_threads(bench: Bench) -> Outcome:
    measured = threads.measure(bench.load, bench.size.threads)
    return Outcome("threads", (measured,), threads.table(measured))


def _measure_slowdown(bench: Bench) -> Outcome:
    size = bench.size
    measured = slowdown.measure(bench.load, processes=size.processes, rounds=size.slowdown_rounds)
    return Outcome("slowdown", (measured,), slowdown.table(measured))


def _measure_latency(bench: Bench) -> Outcome:
    delays = latency.measure(bench.load, bench.size.latency_processes)
    return Outcome("latency", (delays,), latency.table(delays))


def _measure_memory(bench: Bench) -> Outcome:
    size = bench.size
    remembered = memory.measure(bench.load, events=size.memory_events, slice_seconds=size.slice_seconds)
    living = memory.measure_living(bench.load, size.living)
    return Outcome("memory", (remembered, living), memory.table(remembered, living))


def _measure_idle(bench: Bench) -> Outcome:
    wakes = idle.measure(bench.size.idle_seconds)
    return Outcome("idle", (wakes,), idle.table(wakes))


def _measure_rules(bench: Bench) -> Outcome:
    decided = rules.measure(bench.size.rule_records)
    return Outcome("rules", (decided,), report.rules_table(decided))


def _measure_sigma(bench: Bench) -> Outcome:
    costs = sigma.measure(bench.load, bench.directory / "sigma", bench.size.processes)
    return Outcome("sigma", (costs,), sigma.table(costs))


def _measure_replay(bench: Bench) -> Outcome:
    replayed = replay.measure(bench.size.replayed_events, bench.size.entries)
    return Outcome("replay", (replayed,), replay.table(replayed))


def _measure_ctl(bench: Bench) -> Outcome:
    readings = ctl.measure(bench.directory, bench.size.read_entries)
    return Outcome("ctl", (readings,), ctl.table(readings))


def _measure_situations(bench: Bench) -> Outcome:
    told = situations.measure(bench.load, bench.directory)
    return Outcome("situations", tuple(told), report.situations_table(told))


SUBJECTS: dict[str, Callable[[Bench], Outcome]] = {
    "arguments": _measure_arguments,
    "storms": _measure_storms,
    "cost": _measure_cost,
    "threads": _measure_threads,
    "slowdown": _measure_slowdown,
    "latency": _measure_latency,
    "memory": _measure_memory,
    "idle": _measure_idle,
    "rules": _measure_rules,
    "sigma": _measure_sigma,
    "replay": _measure_replay,
    "ctl": _measure_ctl,
    "situations": _measure_situations,
}
_HELP_ONLY = f"this subject alone, may be given more than once: {', '.join(SUBJECTS)}"


def _check_machine() -> None:
    if os.geteuid() != 0:
        raise BenchError("only root may listen")
    if missing := [program for program in PEERS if shutil.which(program) is None]:
        raise BenchError(f"not installed: {', '.join(missing)}; `make bench` installs what is missing")


def _say(what: str) -> None:
    print(f"bench: {what}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
