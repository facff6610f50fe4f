# SPDX-License-Identifier: MIT
"""How the benchmark reads what the programs print, and how it shows its figures."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from procwatchd.ctl.lives.lives import Lives
from procwatchd.process.fields import FIELDS
from procwatchd.sigmafiles import load_sigma
from tests.bench.arguments import CASES, RATE, read_told
from tests.bench.cost import _of_load
from tests.bench.ctl import JOURNALCTL, Reading, Readings, made_entries, read
from tests.bench.ctl import table as ctl_table
from tests.bench.latency import Delays, find_delays
from tests.bench.load import BenchError, Spawned
from tests.bench.sigma import RULES, write_rules
from tests.bench.table import Row, Table, render

MARK = b"procwatchd-bench-4"


@pytest.mark.parametrize(
    ("name", "line", "is_recorded"),
    [
        (
            "procwatchd",
            b'{"PROCWATCH_EVENT": "exec", "PROCWATCH_PID": "77", "PROCWATCH_SOURCE": "recorder",'
            b' "PROCWATCH_CMDLINE": "/tmp/dynamic ' + MARK + b' 12"}',
            True,
        ),
        (
            "procwatchd",
            b'{"PROCWATCH_EVENT": "exec", "PROCWATCH_PID": "77", "PROCWATCH_SOURCE": "proc",'
            b' "PROCWATCH_CMDLINE": "/tmp/dynamic ' + MARK + b' 12"}',
            False,
        ),
        ("forkstat", b"10:11:12 exec      77               /tmp/dynamic " + MARK + b" 12", False),
        ("extrace", b"    77 /tmp/dynamic " + MARK + b" 12", False),
        ("execsnoop.bt", b"1296       77    /tmp/dynamic " + MARK + b" 12", False),
    ],
)
def test_an_exec_is_read_with_pid_case_and_number(
    tmp_path: Path, name: str, line: bytes, *, is_recorded: bool
) -> None:
    output = tmp_path / "output"
    output.write_bytes(b"\xff something else\n" + line + b"\n")
    assert list(read_told(name, output)) == [((77, 4, 12), is_recorded)]


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("forkstat", b"10:11:12 exec      77               <unknown>"),
        ("extrace", b"    77 ''"),
        ("procwatchd", b'{"PROCWATCH_EVENT": "exec", "PROCWATCH_PID": "77"}'),
        (
            "procwatchd",
            b'{"PROCWATCH_EVENT": "exit", "PROCWATCH_PID": "77", "PROCWATCH_CMDLINE": "x ' + MARK + b' 12"}',
        ),
    ],
)
def test_what_is_no_exec_with_arguments_is_not_read(tmp_path: Path, name: str, line: bytes) -> None:
    output = tmp_path / "output"
    output.write_bytes(line + b"\n")
    assert list(read_told(name, output)) == []


def test_each_program_is_run_fast_at_a_rate_and_beside_loops() -> None:
    static = [(case.rate, case.loops) for case in CASES if case.program == "static"]
    assert static == [(0, 0), (RATE, 0), (0, 2)]


def test_no_pid_counts_more_often_than_the_load_had_it() -> None:
    assert _of_load([7, 8, 7], [("exec", 7)] * 3 + [("exit", 8), ("exec", 9), ("uid", 7)]) == 3


def test_of_what_else_happened_nothing_counts() -> None:
    assert _of_load([7, 8], [("exec", 7), ("exit", 7), ("exec", 8)], ("exec",)) == 2


def test_all_sigma_rules_are_such_as_are_loaded(tmp_path: Path) -> None:
    write_rules(tmp_path / "sigma")
    sigma = load_sigma([str(tmp_path / "sigma")], "high", ["test"], [])
    assert (len(sigma.rules), sigma.problems, sigma.others) == (RULES, (), 0)


def test_percentiles_are_of_what_was_seen() -> None:
    delays = Delays([float(n) for n in range(1, 101)], missing=0)
    assert (delays.percentile(0.5), delays.percentile(0.99)) == (51.0, 100.0)
    assert Delays([5.0], missing=9).percentile(0.99) == 5.0


def test_a_delay_is_up_to_the_first_entry_of_the_pid_after_the_start() -> None:
    spawned = [Spawned(7, 1_000_000), Spawned(8, 2_000_000), Spawned(9, 3_000_000)]
    seen = [(7, 500_000), (7, 3_000_000), (8, 3_000_000), (7, 90_000_000)]
    assert find_delays(spawned, seen) == Delays([1.0, 2.0], missing=1)


def test_a_table_has_its_marks_details_and_notes() -> None:
    table = Table(
        "what", ("we",), [Row("work", ("1",), "≤ 2", reached=False, details=("each: 1",))], ("as is",)
    )
    assert render(table, verbose=True).splitlines() == [
        "what  we  target",
        "work   1     ≤ 2  ✗",
        "    each: 1",
        "  (as is)",
    ]


def test_entries_to_read_are_such_as_the_daemon_writes() -> None:
    made = list(made_entries(1_000))
    assert len(made) == 1_000
    known = {"EVENT", "IDENTITY", "SOURCE", *FIELDS}
    used = {
        name.removeprefix("PROCWATCH_") for entry in made for name in entry if name.startswith("PROCWATCH_")
    }
    assert used <= known
    lives = Lives()
    for n, entry in enumerate(made):
        lives.take(entry | {"__REALTIME_TIMESTAMP": str(n)})
    processes = {entry["PROCWATCH_PROCESS_ID"] for entry in made}
    assert len(processes) == sum(entry["PROCWATCH_EVENT"] == "exec" for entry in made)
    # What lives at a time is the shell and its command, and whoever is above them.
    assert len(lives.living) < 10


def test_reading_is_told_by_what_journalctl_takes() -> None:
    def rounds(*seconds: float, kib: int) -> list[Reading]:
        return [Reading(one, one, kib) for one in seconds]

    readings = Readings(
        1_000_000,
        {JOURNALCTL: rounds(10, 20, 10, kib=1024), "top": rounds(5, 12, 16, kib=20480)},
        {JOURNALCTL: rounds(3, kib=1024), "top": rounds(1, kib=10240)},
    )
    assert (readings.ratio("top"), readings.growth("top")) == (0.6, 2.0)
    cpu, ratio, memory, growth = ctl_table(readings).rows
    assert (cpu.cells, ratio.cells, ratio.reached) == (("10.00", "12.00"), ("", "0.60"), True)
    assert (memory.cells, growth.cells, growth.reached) == (("1.0", "20.0"), ("", "2.00"), False)


def test_what_a_measured_program_says_is_in_the_error_alone(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BenchError, match="ended with 1: no journal there"):
        read([sys.executable, "-c", "raise SystemExit('no journal there')"])
    assert read([sys.executable, "-c", "import sys; print('a note', file=sys.stderr)"]).cpu_seconds > 0
    assert capfd.readouterr() == ("", "")
