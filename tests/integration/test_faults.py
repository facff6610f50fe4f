# SPDX-License-Identifier: MIT
"""What goes wrong around the daemon costs what is counted, and nothing else: it answers, and later entries come."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.integration.actor import Actor
from tests.integration.conftest import EVERYTHING
from tests.integration.journald import PrivateJournald
from tests.integration.ledger import PREFIX, TERMS, check_end, check_sums, read_metrics, terms_of
from tests.integration.running import PATIENCE_SECONDS, Entry, RunningDaemon, of
from tests.integration.test_life_cycle import errors_of, next_line, started
from tests.integration.test_recorder import picked, wait_for

# As its unit has it: who shares the CPUs with a bomb would be served last.
NICE = ("nice", "-n", "-10")

STANDSTILL_SECONDS = 10.0
KILLS = 4
BOMB_MILLISECONDS = 5000
BOMB_PROCESSES = 200
MANY = 30_000
# What the unit gives the start, by systemd's default.
TIMEOUT_START_SECONDS = 90.0
# What a process may cost the table; by the tests' own measure it is 1.5 KiB.
KIB_PER_PROCESS = 4

LOAD = f"""
capture: {{events: [exec]}}
log: {{unmatched: drop}}
rules: [{{name: load, match: {{ppid: {os.getpid()}, cmdline|startswith: load number}}}}]
"""
COUNT_THE_BOMB = """
capture: {events: [fork]}
rules: [{name: bomb, match: {parent.comm: bomb}, action: drop}]
"""
ENDS_OF_MANY = """
capture: {events: [exit]}
rules: [{name: many, match: {exe|endswith: /many, source: table}, action: drop}]
"""


class Load:
    """A context: short programs one after the other, each with its number, until it is left; then `count` is right."""

    def __init__(self) -> None:
        self.count = 0
        self._is_enough = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._is_enough.set()
        self._thread.join()

    def go_on(self, count: int) -> None:
        """Return after so many more."""
        enough = self.count + count
        wait_for(lambda: self.count >= enough)

    def _run(self) -> None:
        while not self._is_enough.wait(0.001):
            pid = os.posix_spawn("/bin/true", ["load", "number", str(self.count)], os.environ)
            os.waitpid(pid, 0)
            self.count += 1


def numbers_of(entries: list[Entry]) -> list[int]:
    """The numbers of the load's programs, in the order of their entries."""
    found = [entry[f"{PREFIX}CMDLINE"] for entry in entries if entry.get(f"{PREFIX}RULE") == "load"]
    return [int(cmdline.removeprefix("load number ")) for cmdline in found]


def wait_for_load(daemon: RunningDaemon, load: Load) -> None:
    """What was started by now has its entry."""
    last = f"load number {load.count}"
    daemon.wait_entry(lambda entry: entry.get(f"{PREFIX}CMDLINE") == last)


def check_load(daemon: RunningDaemon, count: int, *, in_hand: int = 0) -> None:
    """All of the load is logged once and in order, once the daemon has stopped; journald lost so much at most."""
    assert daemon.stop() == 0
    told = numbers_of(daemon.entries)
    assert told == sorted(set(told))
    assert count - in_hand <= len(told) <= count
    terms = check_end(daemon.entries[-1])
    assert (terms["LOST"], terms["UNWRITTEN"], terms["LOGGED"]) == (0, 0, count)


def metrics_of(daemon: RunningDaemon, directory: Path) -> dict[str, int]:
    """The ledger as it is now, where the journal cannot tell it."""
    path = directory / "run" / "metrics.prom"
    path.unlink(missing_ok=True)
    daemon.process.send_signal(signal.SIGUSR1)
    wait_for(path.exists)
    metrics = read_metrics(directory)
    check_sums({term: metrics[term] for term in TERMS})
    return metrics


def check_exit(daemon: RunningDaemon, steps: str) -> Entry:
    """The entry on a process that ended just now."""
    with Actor(steps, "exit", "3") as actor:
        actor.end()
    entry = daemon.wait_entry(of("exit", pid=actor.pid))
    assert entry[f"{PREFIX}EXIT_CODE"] == "3"
    return entry


def test_journald_stands_still_under_load(tmp_path: Path, journald: PrivateJournald) -> None:
    with RunningDaemon(tmp_path, LOAD, journald=journald) as daemon:
        with Load() as load:
            daemon.wait_entry(of("exec", rule="load"))
            journald.pause()
            until = time.monotonic() + STANDSTILL_SECONDS
            before = metrics_of(daemon, tmp_path)
            while time.monotonic() < until:
                time.sleep(STANDSTILL_SECONDS / 10)
                metrics = metrics_of(daemon, tmp_path)
                assert metrics["UNWRITTEN"] == 0
            assert metrics["RECEIVED"] - before["RECEIVED"] > 1000
            assert metrics["PENDING"] > 1000
            journald.resume()
            wait_for_load(daemon, load)
        check_load(daemon, load.count)


def test_journald_is_killed_under_load(tmp_path: Path) -> None:
    """Again and again; its sockets stay, as its service manager keeps them. One entry it may have had in hand."""
    with (
        PrivateJournald(keeps_sockets=True) as journald,
        RunningDaemon(tmp_path, LOAD, journald=journald) as daemon,
    ):
        with Load() as load:
            for _ in range(KILLS):
                wait_for_load(daemon, load)
                journald.kill()
                gone_at = load.count
                wait_for(lambda: load.count > gone_at + 50)  # noqa: B023
                journald.start()
        check_load(daemon, load.count, in_hand=KILLS)


@pytest.mark.parametrize("error", [errno.EPERM, errno.ENOSYS], ids=os.strerror)
def test_the_kernel_refuses_recorder_and_accounting(tmp_path: Path, steps: str, error: int) -> None:
    """That is said once; arguments and ends come from elsewhere."""
    program = ("-m", "tests.integration.refusing", str(error))
    with RunningDaemon(tmp_path, EVERYTHING, program=program) as daemon:
        with Actor(steps, "wait", "exit", "3") as actor:
            actor.reached()
            execed = daemon.wait_entry(of("exec", pid=actor.pid))
            actor.go()
            actor.end()
        ended = daemon.wait_entry(of("exit", pid=actor.pid))
        assert daemon.stop() == 0
    assert picked(execed, "SOURCE", "CMDLINE") == {"SOURCE": "proc", "CMDLINE": f"{steps} wait exit 3"}
    assert picked(ended, "EXIT_CODE", "EXIT_SOURCE") == {"EXIT_CODE": "3", "EXIT_SOURCE": "connector"}
    for what in ("arguments by /proc alone: ", "ends only as far as the connector tells of them: "):
        (said,) = (entry["MESSAGE"] for entry in daemon.entries if what in entry["MESSAGE"])
        assert said.startswith("start: ")
        assert said.split(what)[1].split(";")[0].strip(), said
    assert not daemon.errors
    check_end(daemon.entries[-1])


def nice_daemon(directory: Path, config: str) -> RunningDaemon:
    """One that comes before others when the CPUs are shared out."""
    daemon = RunningDaemon(directory, config)
    daemon.command = [*NICE, *daemon.command]
    return daemon


@contextlib.contextmanager
def many_processes(helpers: Path) -> Iterator[Actor]:
    """They are there; they end together, when they are let go on."""
    with Actor(str(helpers / "many"), str(MANY)) as many:
        many.reached()
        yield many


def resident_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def test_many_living_processes(tmp_path: Path, helpers: Path) -> None:
    """They are found at the start and at the next one; when all of them end at once, nobody is missed."""
    with nice_daemon(tmp_path / "few", ENDS_OF_MANY) as daemon:
        few_kib = resident_kib(daemon.pid)
    with many_processes(helpers) as many:
        began = time.monotonic()
        with nice_daemon(tmp_path / "first", ENDS_OF_MANY) as daemon:
            assert time.monotonic() - began < TIMEOUT_START_SECONDS
            assert int(daemon.wait_entry(of("start"))[f"{PREFIX}PROCESSES"]) > MANY
            assert resident_kib(daemon.pid) - few_kib < KIB_PER_PROCESS * MANY
            assert daemon.stop() == 0
        with nice_daemon(tmp_path / "next", ENDS_OF_MANY) as daemon:
            many.go()
            many.end()
            assert daemon.stop() == 0
            terms = check_end(daemon.entries[-1])
    assert (terms["LOST"], terms["DROPPED"]) == (0, MANY + 1)


@pytest.fixture
def few_pids() -> Iterator[Path]:
    """A control group for few processes."""
    v1 = Path("/sys/fs/cgroup/pids")
    root = v1 if v1.is_dir() else Path("/sys/fs/cgroup")
    if not v1.is_dir():
        (root / "cgroup.subtree_control").write_text("+pids")
    group = root / f"procwatchd-{os.getpid()}"
    group.mkdir()
    (group / "pids.max").write_text(str(BOMB_PROCESSES))
    yield group
    wait_for(lambda: not (group / "cgroup.procs").read_text())
    group.rmdir()


def test_a_fork_bomb(tmp_path: Path, helpers: Path, steps: str, few_pids: Path) -> None:
    script = f"echo $$ >{few_pids}/cgroup.procs; exec {helpers}/bomb {BOMB_MILLISECONDS}"
    with nice_daemon(tmp_path, COUNT_THE_BOMB) as daemon:
        with Actor("/bin/sh", "-c", script) as bomb:
            while bomb.process.poll() is None:
                check_sums(terms_of(daemon.statistics()))
                with Actor(steps) as actor:
                    daemon.wait_entry(of("fork", pid=actor.pid))
            assert bomb.process.stdout is not None
            forks = int(bomb.process.stdout.read())
        assert daemon.stop() == 0
        terms = check_end(daemon.entries[-1])
    assert forks > 1000
    assert terms["LOST"] == 0
    assert terms["DROPPED"] == forks


@contextlib.contextmanager
def mounted(directory: Path, size: str) -> Iterator[None]:
    """A file system of its own, of this size."""
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", directory], check=True)
    try:
        yield
    finally:
        while os.path.ismount(directory):
            subprocess.run(["umount", "--lazy", directory], check=True)


def fill(directory: Path) -> None:
    with (directory / "fill").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def close(directory: Path) -> None:
    # By another mount: this one has a file that is open for writing.
    subprocess.run(["mount", "--bind", directory, directory], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", directory], check=True)


@pytest.mark.parametrize("spoil", [fill, close])
def test_nothing_can_be_written_in_the_runtime_directory(
    tmp_path: Path, steps: str, spoil: Callable[[Path], None]
) -> None:
    """That costs the metrics and the time of the stop, nothing else."""
    with mounted(tmp_path / "run", "64K"), RunningDaemon(tmp_path) as daemon:
        spoil(tmp_path / "run")
        check_sums(terms_of(daemon.statistics()))
        check_exit(daemon, steps)
        assert daemon.stop() == 0
        assert not daemon.errors
        check_end(daemon.entries[-1])
        assert not (tmp_path / "run" / "stopped").exists()


def test_the_configuration_vanishes(tmp_path: Path, steps: str) -> None:
    with RunningDaemon(tmp_path, "rules: [{name: kept, match: {event: exit}}]") as daemon:
        daemon.config.unlink()
        since = len(daemon.notified)
        daemon.process.send_signal(signal.SIGHUP)
        ready = daemon.wait_notified("READY=1", since=since)
        status = daemon.wait_notified("STATUS=", since=ready)
        assert "keeping the previous rules" in daemon.notified[status]
        entry = daemon.wait_entry(of("reload"))
        assert str(daemon.config) in entry["MESSAGE"]
        assert str(entry["PRIORITY"]) == "4"
        assert check_exit(daemon, steps)[f"{PREFIX}RULE"] == "kept"
        assert daemon.stop() == 0


def test_the_manager_goes_away(tmp_path: Path, steps: str) -> None:
    with RunningDaemon(tmp_path, WATCHDOG_USEC="200000") as daemon:
        daemon.wait_notified("WATCHDOG=1")
        (tmp_path / "notify").rename(tmp_path / "gone")
        check_exit(daemon, steps)
        check_sums(terms_of(daemon.statistics()))
        assert daemon.stop() == 0
        assert not daemon.errors
        # What reads from it is told there that it is over.
        (tmp_path / "gone").rename(tmp_path / "notify")


@contextlib.contextmanager
def killed_after(process: subprocess.Popen[bytes], seconds: float) -> Iterator[None]:
    """So that who waits for its output does not wait for ever."""
    timer = threading.Timer(seconds, process.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def test_the_manager_hangs(tmp_path: Path, steps: str) -> None:
    """Nobody reads what it is told, and there is room for no more."""
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filler, contextlib.suppress(BlockingIOError):
            filler.setblocking(False)
            while True:
                filler.sendto(b"", address)
        with (
            started(tmp_path, NOTIFY_SOCKET=address, WATCHDOG_USEC="200000") as process,
            killed_after(process, PATIENCE_SECONDS),
        ):
            assert next_line(process, b" start: procwatchd")
            with Actor(steps) as actor:
                assert next_line(process, b" exec steps[%d] " % actor.pid)
            process.terminate()
            assert next_line(process, b" stop: ")
            assert process.wait(PATIENCE_SECONDS) == 0
            assert errors_of(process) == b""
