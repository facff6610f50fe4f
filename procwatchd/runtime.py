# SPDX-License-Identifier: MIT
"""The runtime directory: who runs, since when nobody listens, and the metrics."""

from __future__ import annotations

import fcntl
import os

from procwatchd.errors import AnotherRunsError, DeniedError

RUNTIME_DIRECTORY = "/run/procwatchd"


class RuntimeDirectory:
    """The directory ($RUNTIME_DIRECTORY, else /run/procwatchd), locked until `close`.

    Raises AnotherRunsError where another daemon has it, DeniedError where it cannot be used.
    """

    def __init__(self, path: str | None = None) -> None:
        self.path = path or os.environ.get("RUNTIME_DIRECTORY", RUNTIME_DIRECTORY)
        try:
            os.makedirs(self.path, mode=0o755, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._lock = os.open(f"{self.path}/lock", flags, 0o600)
        except OSError as error:
            raise DeniedError(
                f"cannot use the runtime directory {self.path}: {error.strerror}; run as root, or name another "
                "in $RUNTIME_DIRECTORY"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise AnotherRunsError(
                f"another procwatchd runs with the runtime directory {self.path}; to run one beside it, name another "
                "in $RUNTIME_DIRECTORY"
            ) from error

    def close(self) -> None:
        """Let another daemon have it."""
        os.close(self._lock)

    def last_listened_usec(self, boot_id: str) -> int | None:
        """When a daemon before us stopped listening (CLOCK_MONOTONIC), where that was in this boot; told once."""
        try:
            with open(f"{self.path}/stopped", "rb") as file:
                boot, usec = file.read(256).split()
            # It is true of this start alone: if we are killed, nobody knows since when nobody listens.
            os.unlink(f"{self.path}/stopped")
            return int(usec) if boot.decode("ascii", "replace") == boot_id else None
        except (OSError, ValueError):
            return None

    def write_stopped(self, boot_id: str, monotonic_usec: int) -> None:
        """Note for the next one when listening ended."""
        self._write("stopped", f"{boot_id} {monotonic_usec}\n")

    def write_metrics(self, text: str) -> None:
        """Put metrics.prom in its place at once, so that no one reads half of it."""
        self._write("metrics.prom", text)

    def _write(self, name: str, text: str) -> None:
        try:
            with open(f"{self.path}/{name}.new", "w", encoding="ascii") as file:
                os.fchmod(file.fileno(), 0o644)  # for others to read, whatever the umask
                file.write(text)
            os.replace(f"{self.path}/{name}.new", f"{self.path}/{name}")
        except OSError:
            # A full disk costs only this file: the same is in the journal, and a stale file's age tells.
            return
