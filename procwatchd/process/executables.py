# SPDX-License-Identifier: MIT
"""SHA-256 of executables, through the descriptor of /proc/PID/exe, never by path."""

from __future__ import annotations

import hashlib
import os
import stat

CACHED = 4096
HASHED_BYTES = 256 << 20


class Hasher:
    """Hashes what is executed, each file once while it does not change.

    `too_big` counts executables over `HASHED_BYTES`, which are not hashed.
    """

    def __init__(self) -> None:
        self.too_big = 0
        self._known: dict[tuple[int, ...], str] = {}

    def digest(self, fd: int) -> str | None:
        """The hash in hex; None where the file is too big or cannot be read. The descriptor stays open."""
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                return None
            if status.st_size > HASHED_BYTES:
                self.too_big += 1
                return None
            key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            if key not in self._known:
                if len(self._known) >= CACHED:
                    self._known.clear()
                self._known[key] = _sha256(fd)
            return self._known[key]
        except OSError:
            return None


def _sha256(fd: int) -> str:
    digest = hashlib.sha256()
    offset = 0
    while offset < HASHED_BYTES and (chunk := os.pread(fd, 1 << 20, offset)):
        digest.update(chunk)
        offset += len(chunk)
    return digest.hexdigest()
