# SPDX-License-Identifier: MIT
"""One exit for each process, with its true end: with all of the kernel's accounting, with what is needed, without."""

from __future__ import annotations

import os
import re
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from procwatchd.process.fields import FIELDS
from tests.integration.actor import Actor, process_id
from tests.integration.conftest import EVERYTHING
from tests.integration.running import Entry, RunningDaemon, of

PREFIX = "PROCWATCH_"
USAGE = ("CPU_USEC", "MEMORY_PEAK", "IO_READ_BYTES", "IO_WRITE_BYTES")
# How often a race is run that is lost now and then.
ROUNDS = 200


def without_threads(accounting: str) -> str:
    return EVERYTHING.replace("threads: on", f"accounting: {accounting}")


# Where nobody asks for what was read and written, the kernel sends the records of ends alone.
UNFILTERED = ("IO_READ_BYTES", "IO_WRITE_BYTES")
FILTERED = [name.lower().replace("_", "-") for name in FIELDS if name not in UNFILTERED]


@pytest.fixture(scope="module", params=["auto", "filtered", "off"])
def daemon(request: pytest.FixtureRequest) -> Iterator[RunningDaemon]:
    """A daemon with and without accounting; `threads: off`."""
    if request.param == "filtered":
        config = without_threads("auto").replace("fields: all", f"fields: [{', '.join(FILTERED)}]")
    else:
        config = without_threads(request.param)
    with (
        tempfile.TemporaryDirectory(prefix="procwatchd-") as directory,
        RunningDaemon(Path(directory), config) as daemon,
    ):
        daemon.accounting = request.param  # type: ignore[attr-defined]
        yield daemon


def field(entry: Entry, name: str) -> str | None:
    value: str | None = entry.get(PREFIX + name)
    return value


def number(entry: Entry, name: str) -> int:
    return int(entry[PREFIX + name])


def has_accounting(daemon: RunningDaemon) -> bool:
    return bool(daemon.accounting != "off")  # type: ignore[attr-defined]


def check_end(daemon: RunningDaemon, ended: str, status: int, *, is_race: bool = False) -> Entry:
    """The one exit entry of a process, by its PROCESS_ID, says what its parent was told.

    Where threads ended at the same time, `is_race`, it may say that this is not certain.
    """
    entry = daemon.wait_entry(of("exit", process_id=ended))
    expected: tuple[str | None, str | None]
    if os.WIFSIGNALED(status):
        expected = (None, signal.Signals(os.WTERMSIG(status)).name)
    else:
        expected = (str(os.WEXITSTATUS(status)), None)
    assert (field(entry, "EXIT_CODE"), field(entry, "EXIT_SIGNAL")) == expected
    assert (field(entry, "CORE_DUMPED") == "1") == os.WCOREDUMP(status)
    source = field(entry, "EXIT_SOURCE")
    assert source == ("taskstats" if has_accounting(daemon) else "connector") or (
        is_race and source == "connector"
    )
    assert (field(entry, "MEMORY_PEAK") is not None) == has_accounting(daemon)
    assert field(entry, "DURATION_USEC") is not None
    return entry


@pytest.mark.parametrize(
    "script",
    [
        ("exit", "0"),
        ("exit", "201"),
        ("signal", str(int(signal.SIGTERM))),
        ("signal", str(int(signal.SIGKILL))),
        ("no-core", "signal", str(int(signal.SIGSEGV))),
        ("core", "signal", str(int(signal.SIGSEGV))),
        ("thread", "thread", "exit", "3"),
        ("threads", "exit", "4"),
        ("threads", "signal", str(int(signal.SIGKILL))),
        ("leader-ends", "exit", "5"),
        ("leader-ends", "threads", "exit", "6"),
        ("leader-ends", "signal", str(int(signal.SIGUSR1))),
        ("in-thread", "exit", "7"),
        ("in-thread", "in-thread", "leader-ends", "exit", "8"),
        ("leader-exits", "9", "wait", "exit", "0"),
        ("leader-exits", "9", "wait", "exit", "10"),
        ("in-thread", "exec", "{steps}", "exit", "11"),
        ("threads", "in-thread", "exec", "{steps}", "threads", "exit", "12"),
        ("leader-ends", "exec", "{steps}", "signal", str(int(signal.SIGKILL))),
        ("exec", "{steps}", "exec", "{steps}", "exit", "13"),
    ],
    ids=" ".join,
)
def test_the_end_that_the_parent_sees(
    daemon: RunningDaemon, steps: str, tmp_path: Path, script: tuple[str, ...]
) -> None:
    with Actor(steps, *(word.format(steps=steps) for word in script), cwd=tmp_path) as actor:
        if "wait" in script:
            actor.reached()
            # Longer than it can take from one task's end by itself to that of the last.
            time.sleep(0.05)
            actor.go()
        ended = process_id(actor.pid)
        status = actor.end()
    check_end(daemon, ended, status)
    assert daemon.statistics()
    assert len(daemon.having(of("exit", process_id=ended))) == 1


def test_the_end_of_one_that_never_execed(daemon: RunningDaemon, steps: str) -> None:
    with Actor(steps, "child", "wait", "exit", "14") as actor:
        actor.reached()
        child = daemon.wait_entry(of("fork", ppid=actor.pid))[PREFIX + "PROCESS_ID"]
        actor.go()
        status = actor.end()
    entry = check_end(daemon, child, status)
    assert (field(entry, "SOURCE"), field(entry, "CMDLINE")) == (
        "inherited",
        f"{steps} child wait exit 14",
    )


def test_the_end_of_one_that_nobody_waits_for(daemon: RunningDaemon, steps: str) -> None:
    with Actor(steps, "ignore-children", "child", "wait", "exit", "15") as actor:
        actor.reached()
        child = daemon.wait_entry(of("fork", ppid=actor.pid))[PREFIX + "PROCESS_ID"]
        actor.go()
        actor.end()
    check_end(daemon, child, 15 << 8)


def test_a_thread_that_ends_by_itself_does_not_say_how_its_process_ends(
    daemon: RunningDaemon, steps: str
) -> None:
    """A thread that was about to end by itself, with 0, may be the last to end."""
    statuses = {}
    for n in range(ROUNDS):
        with Actor(steps, "threads", "exit", str(n % 200 + 1)) as actor:
            ended = process_id(actor.pid)
            statuses[ended] = actor.end()
    for ended, status in statuses.items():
        check_end(daemon, ended, status, is_race=True)


def test_what_a_process_took(daemon: RunningDaemon, steps: str, tmp_path: Path) -> None:
    with Actor(
        *(steps, "burn", "120", "touch", "64", "write", "8", "wait", "exit", "0"), cwd=tmp_path
    ) as actor:
        actor.reached()
        ended = process_id(actor.pid)
        time.sleep(0.2)
        actor.go()
        status = actor.end()
    entry = check_end(daemon, ended, status)
    assert number(entry, "DURATION_USEC") > 250_000
    if has_accounting(daemon):
        assert 90_000 < number(entry, "CPU_USEC") < number(entry, "DURATION_USEC")
        assert 64 << 20 < number(entry, "MEMORY_PEAK") < 80 << 20
    if daemon.accounting == "auto":  # type: ignore[attr-defined]
        assert 8 << 20 <= number(entry, "IO_WRITE_BYTES") < 9 << 20
    if has_accounting(daemon):
        assert re.search(r"code 0 after \d+ms \(CPU \d+ms, (6[4-9]|7\d) MiB\): ", entry["MESSAGE"])
    else:
        assert not [name for name in USAGE if field(entry, name) is not None]


def test_what_the_threads_of_a_process_took(daemon: RunningDaemon, steps: str, tmp_path: Path) -> None:
    """Each thread's work counts, that of threads before an exec, too."""
    work = ("burn", "50", "write", "4")
    with Actor(
        *(steps, *work, "in-thread", *work, "exec", steps, *work, "exit", "0"),
        cwd=tmp_path,
    ) as actor:
        ended = process_id(actor.pid)
        status = actor.end()
    entry = check_end(daemon, ended, status)
    if has_accounting(daemon):
        assert 140_000 < number(entry, "CPU_USEC") < 300_000
    if daemon.accounting == "auto":  # type: ignore[attr-defined]
        assert 12 << 20 <= number(entry, "IO_WRITE_BYTES") < 13 << 20


def test_the_end_of_one_that_ran_before_the_daemon(tmp_path: Path, steps: str) -> None:
    """Its CPU time and duration are the kernel's; what its ended threads read and wrote nobody knows."""
    began = time.monotonic()
    with (
        Actor(steps, "in-thread", "burn", "50", "write", "4", "wait", "exit", "3", cwd=tmp_path) as threaded,
        Actor(steps, "write", "4", "wait", "exit", "4", cwd=tmp_path) as single,
    ):
        threaded.reached()
        single.reached()
        with RunningDaemon(tmp_path / "daemon", without_threads("on")) as daemon:
            daemon.accounting = "auto"  # type: ignore[attr-defined]
            took = []
            for actor in (threaded, single):
                actor.go()
                ended = process_id(actor.pid)
                status = actor.end()
                took.append(check_end(daemon, ended, status))
            all_usec = (time.monotonic() - began) * 1_000_000
    assert number(took[0], "CPU_USEC") > 45_000
    assert field(took[0], "IO_WRITE_BYTES") is None
    assert 4 << 20 <= number(took[1], "IO_WRITE_BYTES") < 5 << 20
    for entry in took:
        assert 0 < number(entry, "DURATION_USEC") < all_usec
