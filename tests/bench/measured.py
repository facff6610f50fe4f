# SPDX-License-Identifier: MIT
"""A program that is measured: procwatchd, forkstat, extrace or execsnoop.bt, writing to a file.

Facts:
- /proc/PID/task/TID/schedstat begins with the ns a thread was on a CPU; what runs now is up to a tick behind
  [Documentation/scheduler/sched-stats.rst]. The sum is exact for a process that sleeps.
- What forkstat writes to a file is buffered by stdio: all of it is there only once it has ended.
- bpftrace looks for tracepoints in debugfs or tracefs, which not every machine has mounted.
- /proc/net/netlink has the port and the groups of each socket, how many datagrams it had no room for, and its inode as
  the last column [net/netlink/af_netlink.c].
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.bench.load import BenchError
from tests.integration.journald import PrivateJournald

ROOT = Path(__file__).parents[2]
SHIPPED_CONFIGURATION = ROOT / "etc" / "procwatchd.yaml"

PATIENCE_SECONDS = 60.0
# On a machine where others are busy it is never quiet.
SETTLE_SECONDS = 15.0
_NETLINK_CONNECTOR = 11
_GROUP = 1
# Quiet is who used less than a fiftieth of a CPU for three tenths of a second.
_LOOK_SECONDS = 0.1
_LOOKS = 3
_QUIET_NS = 2_000_000
# Where Debian has it, and others.
_EXECSNOOP = ("/usr/sbin/execsnoop.bt", "/usr/share/bpftrace/tools/execsnoop.bt")
# Both in a mount namespace of their own, so that nothing of it is left on the machine.
_CAT = """
mount -t tmpfs no /run && mkdir -p /run/systemd/journal && mount --bind "$0" /run/systemd/journal || exit
exec systemd-cat --identifier=forkstat
"""
_SNOOP = 'mount -t debugfs no /sys/kernel/debug; mount -t tracefs no /sys/kernel/tracing; exec bpftrace "$0"'


@dataclass(slots=True)
class Measured:
    """A running program and its `output` file; `helper` is the one that it writes to, where there is one."""

    name: str
    process: subprocess.Popen[bytes]
    output: Path
    errors: Path
    stop_signal: signal.Signals
    helper: subprocess.Popen[bytes] | None = None

    def cpu_ns(self) -> int:
        """The CPU time of all its threads, and of its helper's."""
        helper_ns = 0 if self.helper is None else cpu_ns(self.helper.pid)
        return cpu_ns(self.process.pid) + helper_ns

    def switches(self) -> int:
        """How often its threads were taken off a CPU: each time but the first, they had been woken up before."""
        total = 0
        for status in Path(f"/proc/{self.process.pid}/task").glob("*/status"):
            for line in status.read_text().splitlines():
                if line.startswith(("voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:")):
                    total += int(line.split()[1])
        return total

    def memory_kib(self, name: str = "VmRSS") -> int:
        """Its resident memory now, or by `VmHWM` the most it ever had."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1])
        raise BenchError(f"{self.name} has no {name}: it ended")

    def wait_until_quiet(self, limit_seconds: float = SETTLE_SECONDS) -> float | None:
        """Wait until it has nothing to do any more; gives after how long that was, None for not by `limit_seconds`."""
        start = time.monotonic()
        quiet = 0
        before_ns = self.cpu_ns()
        while quiet < _LOOKS:
            if time.monotonic() > start + limit_seconds:
                return None
            time.sleep(_LOOK_SECONDS)
            self.check_runs()
            now_ns = self.cpu_ns()
            quiet = quiet + 1 if now_ns - before_ns < _QUIET_NS else 0
            before_ns = now_ns
        return max(0.0, time.monotonic() - start - _LOOKS * _LOOK_SECONDS)

    def drops(self) -> int:
        """How many events the kernel had no room for on its connector socket.

        Of several it is the one with the most: the others take part of the events, and are no more than a help.
        """
        inodes = set()
        for entry in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                inodes.add(os.readlink(entry).removeprefix("socket:[").removesuffix("]"))
        return max(listener.drops for listener in listeners() if listener.inode in inodes)

    def check_runs(self) -> None:
        """Raise BenchError, with what it said, where it has ended."""
        if self.process.poll() is not None:
            problem = self.errors.read_text(errors="replace").strip()
            raise BenchError(f"{self.name} ended with {self.process.returncode}: {problem}")

    def stop(self) -> None:
        """Have it write what it holds, and end. All of its output is in the file then."""
        if self.process.poll() is not None:
            return
        self.process.send_signal(self.stop_signal)
        try:
            self.process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise BenchError(f"{self.name} did not end within {PATIENCE_SECONDS:.0f} s") from error
        if self.helper is not None:
            self.helper.wait(PATIENCE_SECONDS)


def cpu_ns(pid: int) -> int:
    """The CPU time of all threads of a process."""
    total = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        # A thread may end between the two.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            total += int((thread / "schedstat").read_text().split()[0])
    return total


@dataclass(frozen=True, slots=True)
class Listener:
    """A socket of the connector's group."""

    port: int
    drops: int
    inode: str


def listeners() -> list[Listener]:
    """The sockets that process events are sent to, of all programs."""
    rows = [line.split() for line in Path("/proc/net/netlink").read_text().splitlines()[1:]]
    # sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode
    return [
        Listener(int(row[2]), int(row[8]), row[9])
        for row in rows
        if int(row[1]) == _NETLINK_CONNECTOR and int(row[3], 16) & _GROUP
    ]


def unlimited() -> str:
    """The configuration as shipped, but with a limit that nothing reaches: the load is what it would summarise."""
    text = SHIPPED_CONFIGURATION.read_text(encoding="utf-8")
    text, found = re.subn(r"^  limit: \S+", "  limit: 1000000/s", text, flags=re.MULTILINE)
    if found != 1:
        raise BenchError("the shipped configuration has no limit, or more than one")
    return text


@contextlib.contextmanager
def procwatchd(
    configuration: str | None = None, journald: PrivateJournald | None = None
) -> Iterator[Measured]:
    """The daemon, READY: with this configuration, or as shipped and quiet; to journald, or with JSON to a file."""
    with _directory() as directory:
        path = directory / "procwatchd.yaml"
        path.write_text(unlimited() if configuration is None else configuration)
        output = "json" if journald is None else "journal"
        command = [sys.executable, "-m", "procwatchd", "-c", str(path), "--output", output]
        address = str(directory / "notify")
        environment = {
            **os.environ,
            "RUNTIME_DIRECTORY": str(directory / "run"),
            "STATE_DIRECTORY": str(directory / "state"),
            "NOTIFY_SOCKET": address,
        }
        if journald is not None:
            environment["PROCWATCHD_JOURNAL_SOCKET"] = journald.socket_path
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.bind(address)
            with _running("procwatchd", command, directory, signal.SIGTERM, environment) as daemon:
                _wait_ready(daemon, notify)
                # Nobody reads what else it notifies: it would wait once the socket is full.
                notify.close()
                if configuration is None:
                    daemon.wait_until_quiet()
                yield daemon


@contextlib.contextmanager
def forkstat(*options: str) -> Iterator[Measured]:
    """Forkstat with these options and its output in a file, listening and quiet."""
    with _peer("forkstat", *options, stop_signal=signal.SIGINT) as program:
        program.wait_until_quiet()
        yield program


@contextlib.contextmanager
def extrace(*options: str) -> Iterator[Measured]:
    """Extrace with these options and its output in a file, listening."""
    with _peer("extrace", *options, stop_signal=signal.SIGTERM) as program:
        yield program


@contextlib.contextmanager
def forkstat_to_journal(journald: PrivateJournald, *options: str) -> Iterator[Measured]:
    """Forkstat piped to systemd-cat, which writes to this journald; both are measured."""
    command = ["unshare", "--mount", "sh", "-c", _CAT, str(journald.run)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as cat:
        try:
            assert cat.stdin is not None
            with _peer("forkstat", *options, stop_signal=signal.SIGINT, stdout=cat.stdin.fileno()) as program:
                cat.stdin.close()
                program.helper = cat
                program.wait_until_quiet()
                yield program
        finally:
            cat.kill()


@contextlib.contextmanager
def execsnoop() -> Iterator[Measured]:
    """The execsnoop.bt of bpftrace with its output in a file, attached and quiet."""
    script = next((path for path in _EXECSNOOP if Path(path).exists()), None)
    if script is None:
        raise BenchError("there is no execsnoop.bt: apt-get install bpftrace")
    command = ["unshare", "--mount", "sh", "-c", _SNOOP, script]
    with _directory() as directory, _running("execsnoop.bt", command, directory, signal.SIGINT) as program:
        program.wait_until_quiet()
        yield program


@contextlib.contextmanager
def _peer(
    name: str, *options: str, stop_signal: signal.Signals, stdout: int | None = None
) -> Iterator[Measured]:
    command = [name, *options]
    with _directory() as directory, _running(name, command, directory, stop_signal, stdout=stdout) as program:
        _wait_listening(program)
        yield program


@contextlib.contextmanager
def _directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="procwatchd-bench-") as directory:
        yield Path(directory)


@contextlib.contextmanager
def _running(
    name: str,
    command: list[str],
    directory: Path,
    stop_signal: signal.Signals,
    environment: dict[str, str] | None = None,
    stdout: int | None = None,
) -> Iterator[Measured]:
    """Start a program, with its output in a file or to `stdout`; it has ended when this is left."""
    output, errors = directory / "output", directory / "errors"
    with output.open("wb") as file, errors.open("wb") as stderr:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file if stdout is None else stdout,
            stderr=stderr,
        )
    try:
        yield Measured(name, process, output, errors, stop_signal)
    finally:
        process.kill()
        process.wait()


def _wait_ready(daemon: Measured, notify: socket.socket) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    notify.settimeout(_LOOK_SECONDS)
    while time.monotonic() < deadline:
        daemon.check_runs()
        with contextlib.suppress(TimeoutError):
            if b"READY=1" in notify.recv(4096).split(b"\n"):
                return
    raise BenchError("procwatchd did not become ready")


def _wait_listening(program: Measured) -> None:
    """Wait for its connector socket; its port is its PID, as nobody asked for another one."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        program.check_runs()
        if program.process.pid in {listener.port for listener in listeners()}:
            return
        time.sleep(_LOOK_SECONDS)
    raise BenchError(f"{program.name} does not listen")
