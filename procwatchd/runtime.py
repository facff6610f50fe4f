# SPDX-License-Identifier: MIT
"""The runtime directory: who runs, since when nobody listens, and the metrics. The state directory: a key."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat

from procwatchd.errors import AnotherRunsError, DeniedError

RUNTIME_DIRECTORY = "/run/procwatchd"
STATE_DIRECTORY = "/var/lib/procwatchd"
KEY_FILE = "redaction.key"


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


def keep_key(size: int, directory: str | None = None) -> tuple[bytes, str]:
    """A key of so many random bytes, the machine's; and why it is only this run's, or "".

    It is in the state directory ($STATE_DIRECTORY, else /var/lib/procwatchd), for its owner alone, and made where there
    is none yet.
    """
    directory = directory or os.environ.get("STATE_DIRECTORY", STATE_DIRECTORY)
    path = f"{directory}/{KEY_FILE}"
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        if not os.path.lexists(path):
            _make_key(path, size)
        return _read_key(path, size), ""
    except OSError as error:
        return os.urandom(size), f"{path}: {error.strerror}"
    except ValueError as error:
        return os.urandom(size), f"{path} {error}"


def _make_key(path: str, size: int) -> None:
    """Put a new key in its place at once; where another one was faster, that one's stays."""
    new = f"{path}.{os.getpid()}"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(new)
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, os.urandom(size))
        os.fsync(fd)
        with contextlib.suppress(FileExistsError):
            os.link(new, path)
    finally:
        os.close(fd)
        os.unlink(new)


def _read_key(path: str, size: int) -> bytes:
    """The key. Raises ValueError where it is none, or no secret."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size != size:
            raise ValueError(f"is no key of {size} bytes")
        if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o077:
            raise ValueError("is not its owner's alone")
        return os.read(fd, size)
    finally:
        os.close(fd)
