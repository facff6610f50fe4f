# SPDX-License-Identifier: MIT
"""Both ends of the journal's way to a collector, on loopback: systemd-journal-upload and systemd-journal-remote.

Facts (systemd 252 and 257):
- Upload sends what is new in one request, and saves the cursor of the last entry of it once that was answered. When it
  cannot deliver it ends with status 1, and the service manager starts it again.
- Started with a saved cursor, it sends the entry of that cursor again, and then what follows.
- Remote stores entries as they come, before the request is whole.
- Both ends name an entry by the same boot, times and hash: what stands in its cursor from `b=` on.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from systemd import journal

from tests.integration.running import PATIENCE_SECONDS, ROOT

REMOTE = "/lib/systemd/systemd-journal-remote"
UPLOAD = "/lib/systemd/systemd-journal-upload"
# What `make test` unpacks there.
UNPACKED = ROOT / ".cache/fleet"

Stored = dict[str, Any]


class Program:
    """A context: a program that can be ended and started again; `errors` is what it said on stderr."""

    def __init__(self, log: Path, *command: object, environment: dict[str, str] | None = None) -> None:
        self._log = log
        self._command = [str(word) for word in command]
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def errors(self) -> str:
        return self._log.read_text(errors="replace")

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment
            )

    def kill(self) -> None:
        """End it at once, where it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def wait(self) -> int:
        """Wait until it ends by itself; gives its exit status."""
        assert self._process is not None
        return self._process.wait(PATIENCE_SECONDS)


class Collector(Program):
    """A context: systemd-journal-remote, which stores in `stored`; TLS with the key and certificate of these names."""

    def __init__(self, directory: Path, *, tls: Path | None = None) -> None:
        self.port = free_port()
        self.stored = directory / "stored"
        self.stored.mkdir(parents=True)
        scheme = "http" if tls is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        keys = [] if tls is None else [f"--key={tls}.key", f"--cert={tls}.pem"]
        listen = f"--listen-{scheme}=127.0.0.1:{self.port}"
        super().__init__(
            directory / "remote.log", REMOTE, listen, "--split-mode=host", f"--output={self.stored}", *keys
        )

    def start(self) -> None:
        super().start()
        wait_for(lambda: is_open(self.port), lambda: self.errors)

    def entries(self) -> list[Stored]:
        """The daemon's entries, in the order they are stored in."""
        return entries_in(self.stored)


class Upload(Program):
    """A context: systemd-journal-upload of the journal in `source`, which keeps its state in `directory`."""

    def __init__(self, directory: Path, url: str, source: Path, *options: str) -> None:
        self._state = directory / "state"
        self._source = source
        save, follow = f"--save-state={self._state}", "--follow=yes"
        super().__init__(
            directory / "upload.log",
            *[UPLOAD, f"--url={url}", f"--directory={source}", save, follow, *options],
        )

    def wait_until_acknowledged(self) -> str:
        """Wait until it has saved that the collector has all of the daemon's entries; gives the name of the last."""
        last = number_in(entries_in(self._source)[-1]["__CURSOR"])
        wait_for(lambda: number_in(self._saved()) >= last, lambda: self.errors)
        return self._saved().partition(";b=")[2]

    def _saved(self) -> str:
        """The cursor of the last entry that the collector has acknowledged."""
        return self._state.read_text().strip() if self._state.exists() else ""


def entries_in(directory: Path) -> list[Stored]:
    """The daemon's entries in the journal files there, oldest first, with all of their fields."""
    with journal.Reader(path=str(directory)) as reader:
        reader.data_threshold = 0
        reader.add_match("SYSLOG_IDENTIFIER=procwatchd")
        reader.seek_head()
        return list(reader)


def name_of(entry: Stored) -> str:
    """What names an entry in any journal that it was copied to."""
    return str(entry["__CURSOR"]).partition(";b=")[2]


def number_in(cursor: str) -> int:
    """An entry's number in the journal of this cursor."""
    found = re.search(r"\bi=([0-9a-f]+)", cursor)
    return int(found[1], 16) if found else 0


def content_of(entry: Stored) -> Stored:
    """All of it but where it is stored."""
    return {
        name: value for name, value in entry.items() if name not in ("__CURSOR", "__SEQNUM", "__SEQNUM_ID")
    }


def doubled_in(entries: list[Stored]) -> list[str]:
    """The names of those that are there more than once."""
    return [name for name, count in Counter(map(name_of, entries)).items() if count > 1]


def program(name: str) -> str:
    """The path of a program that is not started by being there: unpacked by `make test`, or installed."""
    unpacked = os.pathsep.join(str(UNPACKED / "usr" / part) for part in ("bin", "sbin"))
    found = shutil.which(name, path=unpacked) or shutil.which(name)
    assert found, f"{name} is neither installed nor in {UNPACKED}, where `make test` puts it"
    return found


def libraries() -> dict[str, str]:
    """An environment in which programs find the libraries that were unpacked with them."""
    directories = {str(path.parent) for path in (UNPACKED / "usr/lib").glob("*/lib*.so.*")}
    return {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(sorted(directories))}


def wait_for(condition: Callable[[], bool], explain: Callable[[], str]) -> None:
    """Wait until it holds; fails with the explanation where it never does."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, explain()
        time.sleep(0.05)


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_open(port: int) -> bool:
    """Whether somebody listens on this port of loopback."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
