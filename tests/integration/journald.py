# SPDX-License-Identifier: MIT
"""A real systemd-journald of the test's own: no root, no systemd as PID 1, nothing of the host's journal.

Facts (systemd 252 and 257):
- Given a datagram socket as fd 3 journald takes entries from it, and leaves the kernel's audit socket alone. A
  listening stream socket whose path is `stdout` in its runtime directory takes lines from systemd-cat.
- Without the file `flushed` in its runtime directory it stores elsewhere.
- SIGRTMIN+1 makes it write everything to disk and then touch `synced` in its runtime directory.
- Where the sender is in a unit, journald limits its rate to some ten thousand entries in 30 seconds.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from systemd import journal

DAEMON = Path("/lib/systemd/systemd-journald")
PATIENCE_SECONDS = 20.0

# LISTEN_PID must be the daemon's own, so that only a shell in between can tell it.
_SCRIPT = 'exec 3<&"$1" 4<&"$2" && LISTEN_PID=$$ exec "$3"'


class PrivateJournald:
    """A context: a journald in a directory of its own, which listens on `socket_path`.

    With `keeps_sockets` they outlive it, as under systemd: the next one takes what waits there. Everything else is
    gone at the end: processes, directory.
    """

    def __init__(self, *, keeps_sockets: bool = False) -> None:
        # Not below pytest's directories: the path of a socket has at most 107 bytes.
        self.directory = Path(tempfile.mkdtemp(prefix="journald-"))
        self.run = self.directory / "run"
        self.logs = self.directory / "logs"
        self.socket_path = str(self.run / "socket")
        self._process: subprocess.Popen[bytes] | None = None
        self._keeps_sockets = keeps_sockets
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Self:
        try:
            self.run.mkdir()
            self.logs.mkdir()
            (self.run / "flushed").touch()
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The running daemon's."""
        assert self._process is not None, "journald does not run"
        return self._process.pid

    def start(self) -> None:
        """Start it on what is in the directory; it takes entries when this returns."""
        if not self._sockets:
            self._sockets = self._listen()
        environment = {
            "RUNTIME_DIRECTORY": str(self.run),
            "LOGS_DIRECTORY": str(self.logs),
            "SYSTEMD_LOG_TARGET": "console",
            "LISTEN_FDS": "2",
        }
        fds = [each.fileno() for each in self._sockets]
        with (self.directory / "output").open("ab") as output:
            self._process = subprocess.Popen(
                ["/bin/bash", "-c", _SCRIPT, "journald", *map(str, fds), str(DAEMON)],
                env=environment,
                pass_fds=fds,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        if not self._keeps_sockets:
            self._close_sockets()
        self.sync()

    def sync(self) -> None:
        """Return when all that was sent before is stored."""
        stamp = self.run / "synced"
        stamp.unlink(missing_ok=True)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self._is_ready():
            self._wait_a_moment(deadline)
        os.kill(self.pid, signal.SIGRTMIN + 1)
        while not stamp.exists():
            self._wait_a_moment(deadline)

    def entries(self, **matches: str) -> list[dict[str, Any]]:
        """What is stored, oldest first, of the entries with these fields. Call `sync` first.

        A value is a str where it is UTF-8, else bytes; a repeated field is a list; PRIORITY and others are
        converted as `journal.Reader` does.
        """
        with journal.Reader(path=str(self.logs)) as reader:
            # The default leaves out what is beyond 64 KiB of a value.
            reader.data_threshold = 0
            for name, value in matches.items():
                reader.add_match(f"{name}={value}")
            reader.seek_head()
            return list(reader)

    def pause(self) -> None:
        """Let it run no more until `resume`; its socket fills up."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it run again after `pause`."""
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End it at once, without a chance to write or close anything. Nobody listens on its socket then."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Kill it where it runs, and start it anew in the same directory."""
        self.kill()
        self.start()

    def stop(self) -> None:
        """End it for good and remove its directory."""
        self.kill()
        self._close_sockets()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _listen(self) -> list[socket.socket]:
        """The sockets that it is given: for datagrams, and for the lines of systemd-cat."""
        stream_path = str(self.run / "stdout")
        for path in (self.socket_path, stream_path):
            Path(path).unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(self.socket_path)
        # As systemd-journald-dev-log.socket has it; each datagram says who sent it.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        stream.bind(stream_path)
        stream.listen()
        return [listener, stream]

    def _close_sockets(self) -> None:
        while self._sockets:
            self._sockets.pop().close()

    def _is_ready(self) -> bool:
        """Whether it waits for signals: before, SIGRTMIN+1 would end it."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii", errors="replace")
        blocked = next(line for line in status.splitlines() if line.startswith("SigBlk:"))
        return bool(int(blocked.split()[1], 16) >> signal.SIGRTMIN & 1)

    def _wait_a_moment(self, deadline: float) -> None:
        assert self._process is not None, "journald does not run"
        status = self._process.poll()
        if status is not None or time.monotonic() > deadline:
            output = (self.directory / "output").read_text(encoding="utf-8", errors="replace")
            raise RuntimeError(f"journald is not ready, status {status}: {output}")
        time.sleep(0.002)
