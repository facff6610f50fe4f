# SPDX-License-Identifier: MIT
"""A real daemon on the real kernel, for the tests: started, waited for, listened to, ended."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from systemd import journal

from tests.integration.journald import PrivateJournald

# What a test waits for comes in well under a second; where it does not come at all, the test fails after this long.
PATIENCE_SECONDS = 20.0

PROCWATCHD = ("-m", "procwatchd")
ROOT = Path(__file__).resolve().parents[2]
HANDED = str(Path(__file__).with_name("handed.py"))
# The daemon's program, in the control group that UNIT names.
IN_UNIT = (
    "-c",
    "import os; open(os.environ['UNIT'] + '/cgroup.procs', 'w').write('0'); "
    "from procwatchd.daemon import main; raise SystemExit(main())",
)

# A value is a str where it is UTF-8, else bytes; a list where the field is repeated.
Entry = dict[str, Any]
Wanted = Callable[[Entry], bool]


def environment(directory: Path, **more: str) -> dict[str, str]:
    """What a daemon with its own directories in `directory` is started with; nothing of a manager of ours."""
    managers = ("WATCHDOG_", "LISTEN_", "NOTIFY_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(managers)}
    own = {"RUNTIME_DIRECTORY": str(directory / "run"), "STATE_DIRECTORY": str(directory / "state")}
    return {**inherited, "PYTHONPATH": str(ROOT), **own, **more}


@contextlib.contextmanager
def in_unit() -> Iterator[str]:
    """The control group that journald takes for the unit's, for what is started with IN_UNIT."""
    # Where there are hierarchies of both versions, it goes by the newer one.
    roots = [Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup")]
    unit = next(root for root in roots if (root / "cgroup.procs").exists()) / "procwatchd.service"
    unit.mkdir()
    try:
        yield str(unit)
    finally:
        unit.rmdir()


class FdStore:
    """What a service manager keeps for a daemon from one life to the next, by name: `fds`."""

    def __init__(self) -> None:
        self.fds: dict[str, int] = {}

    def told(self, lines: list[str], fds: list[int]) -> None:
        """Do what a notification asks for."""
        said = dict(line.partition("=")[::2] for line in lines)
        name = said.get("FDNAME", "")
        if "FDSTOREREMOVE" in said and name in self.fds:
            os.close(self.fds.pop(name))
        if "FDSTORE" in said and name not in self.fds:
            # Else one would be closed that has an error, as a socket has that overran.
            assert said.get("FDPOLL") == "0", said
            self.fds[name] = fds.pop()
        for fd in fds:
            os.close(fd)

    def close(self) -> None:
        """Let go of all, as at a stop."""
        for fd in self.fds.values():
            os.close(fd)
        self.fds.clear()


class RunningDaemon:
    """`procwatchd` with JSON or text on a pipe, or with its entries in a journald; READY when entered.

    `program` is what Python is to run, `more` is for its environment. JSON and the journal fill `entries`, JSON
    and text `lines`, as they came; `errors` is what came on stderr, `notified` what the service manager was told,
    all in order. What it has kept is in `store`, if it has one.
    """

    def __init__(
        self,
        directory: Path,
        config: str = "",
        *,
        output: str = "json",
        journald: PrivateJournald | None = None,
        program: tuple[str, ...] = PROCWATCHD,
        store: FdStore | None = None,
        **more: str,
    ) -> None:
        directory.mkdir(exist_ok=True)
        self.directory = directory
        self.config = directory / "procwatchd.yaml"
        self.config.write_text(config)
        self.entries: list[Entry] = []
        self.lines: list[bytes] = []
        self.errors: list[str] = []
        self.notified: list[str] = []
        self._news = threading.Condition()
        self._journald = journald
        self._reader: journal.Reader | None = None
        self._cursors: set[str] = set()
        self._threads: list[threading.Thread] = []
        if journald is not None:
            output = "journal"
            more["PROCWATCHD_JOURNAL_SOCKET"] = journald.socket_path
        self.command = [sys.executable, *program, "-c", str(self.config), "--output", output]
        self._store = store
        if store is not None:
            more["FDSTORE"] = "64"
        self._read_output = self._read_lines if output == "text" else self._read_json
        (directory / "notify").unlink(missing_ok=True)
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(str(directory / "notify"))
        # Whatever user the daemon runs as.
        (directory / "notify").chmod(0o777)
        self._environment = environment(directory, NOTIFY_SOCKET=str(directory / "notify"), **more)
        self.process: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        kept = self._store.fds if self._store is not None else {}
        handed = [sys.executable, HANDED, *(f"{name}={fd}" for name, fd in kept.items()), "--"]
        self.process = subprocess.Popen(
            [*handed, *self.command] if kept else self.command,
            pass_fds=tuple(kept.values()),
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
        )
        for target in (self._read_output, self._read_errors, self._read_notifications):
            thread = threading.Thread(target=target, daemon=True)
            thread.start()
            self._threads.append(thread)
        try:
            self.wait_notified("READY=1")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._end()

    @property
    def pid(self) -> int:
        """The daemon's."""
        return self.process.pid

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask the daemon to end; gives its exit status. All it has written is in `entries` then."""
        self.process.send_signal(number)
        status = self.process.wait(PATIENCE_SECONDS)
        for thread in self._threads[:2]:
            thread.join(PATIENCE_SECONDS)
        self._pull()
        return status

    def wait_entry(self, wanted: Wanted) -> Entry:
        """The first entry that is wanted, once it is there."""
        return self.wait_entries(wanted, 1)[0]

    def wait_entries(self, wanted: Wanted, count: int) -> list[Entry]:
        """At least that many entries that are wanted, once they are there."""
        found: list[Entry] = []
        seen = 0

        def enough() -> bool:
            nonlocal seen
            self._pull()
            found.extend(entry for entry in self.entries[seen:] if wanted(entry))
            seen = len(self.entries)
            return len(found) >= count

        if not self.wait_until(enough):
            last = [entry["MESSAGE"][:100] for entry in self.entries[-8:]]
            raise AssertionError(
                f"{len(found)} of {count} entries came, of {seen}; stderr {self.errors}; the last: {last}"
            )
        return found

    def having(self, wanted: Wanted) -> list[Entry]:
        """The entries so far that are wanted."""
        self._pull()
        return [entry for entry in self.entries if wanted(entry)]

    def wait_line(self, part: bytes) -> bytes:
        """The first line of text that has this in it, once it is there."""
        found: list[bytes] = []

        def is_there() -> bool:
            found.extend(line for line in self.lines if part in line)
            return bool(found)

        if not self.wait_until(is_there):
            raise AssertionError(f"{part!r} did not come; the last lines: {self.lines[-5:]}")
        return found[0]

    def wait_notified(self, start: str, *, since: int = 0) -> int:
        """Wait until the manager was told a line that starts so, at place `since` in `notified` or later; its place."""
        place = -1

        def is_there() -> bool:
            nonlocal place
            places = range(since, len(self.notified))
            place = next((n for n in places if self.notified[n].startswith(start)), -1)
            # Who has ended tells nothing more.
            return place >= 0 or self.process.poll() is not None

        if not self.wait_until(is_there) or place < 0:
            status = self.process.poll()
            raise AssertionError(f"{start} did not come, status {status}: {self.notified}, {self.errors}")
        return place

    def statistics(self) -> Entry:
        """The ledger as it is now."""
        known = len(self.having(of("statistics")))
        self.process.send_signal(signal.SIGUSR1)
        return self.wait_entries(of("statistics"), known + 1)[-1]

    def wait_until(self, condition: Callable[[], bool]) -> bool:
        """Wait until it holds, which is asked with each entry, notification, or moment; False where it never does."""
        if self._journald is None:
            deadline = time.monotonic() + PATIENCE_SECONDS
            with self._news:
                while not self._news.wait_for(condition, 0.2):
                    if time.monotonic() > deadline:
                        return False
            return True
        # A journald tells nobody that an entry came: it is asked, each time after it has stored what it has.
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True

    def _pull(self) -> None:
        """Get from the journald what is new there."""
        if self._journald is None:
            return
        self._journald.sync()
        if self._reader is None:
            self._reader = journal.Reader(path=str(self._journald.logs))
            # The default leaves out what is beyond 64 KiB of a value.
            self._reader.data_threshold = 0
            self._reader.add_match("SYSLOG_IDENTIFIER=procwatchd")
            # From here on it watches for new files, too.
            self._reader.get_events()
        self._reader.process()
        for entry in self._reader:
            # After journald began a new file the reader gives some of the old one's again.
            if entry["__CURSOR"] not in self._cursors:
                self._cursors.add(entry["__CURSOR"])
                self.entries.append(entry)

    def _read_json(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                entry = {name: _from_json(value) for name, value in json.loads(line).items()}
                with self._news:
                    self.lines.append(line)
                    self.entries.append(entry)
                    self._news.notify_all()

    def _read_lines(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                with self._news:
                    self.lines.append(line)
                    self._news.notify_all()

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as errors:
            for line in errors:
                self.errors.append(line.decode(errors="replace"))

    def _read_notifications(self) -> None:
        while True:
            text, fds, _flags, _address = socket.recv_fds(self._notify, 4096, 1)
            if not text:
                return
            lines = text.decode().splitlines()
            if self._store is not None:
                self._store.told(lines, fds)
            with self._news:
                self.notified.extend(lines)
                self._news.notify_all()

    def _end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", str(self.directory / "notify"))
        for thread in self._threads:
            thread.join(PATIENCE_SECONDS)
        self._notify.close()
        if self._reader is not None:
            self._reader.close()


def of(event: str, **fields: object) -> Wanted:
    """Tells entries of this event whose fields (lower case, without prefix) are these."""
    wanted = {f"PROCWATCH_{name.upper()}": str(value) for name, value in fields.items()}
    wanted["PROCWATCH_EVENT"] = event
    return lambda entry: all(entry.get(name) == value for name, value in wanted.items())


def about(pid: int) -> Wanted:
    """Tells entries about this process."""
    return lambda entry: bool(entry.get("PROCWATCH_PID") == str(pid))


def _from_json(value: Any) -> Any:
    """Back from the form of `journalctl -o json`: an array of numbers is bytes, one of values a repeated field."""
    if isinstance(value, str):
        return value
    if all(isinstance(one, int) for one in value):
        return bytes(value)
    return [_from_json(one) for one in value]
