# SPDX-License-Identifier: MIT
"""SHA-256 of executables, through /proc/PID/exe and never by path, by a thread that nobody waits for.

Facts:
- To open a file, to read it, or to ask how it is may take as long as whoever serves it likes, and a file system can be
  any user's own (fuse(8)). O_PATH opens without asking him, AT_STATX_DONT_SYNC takes what is known [open(2), statx(2)].
- What a process runs cannot be written to [execve(2), ETXTBSY; not in Linux 6.11 and 6.12]. When it has ended it can.
- Whatever changes a file sets its ctime, which nobody can set otherwise [utimensat(2)]. It goes in steps: of up to
  10 ms where the kernel counts jiffies, of 2 s on some file systems.

So how a file is, is looked at with the process; the checksum is good if it still is so when all is read, and kept if
each change since would show. Files are read in turn, a chunk of each: a small one does not wait for a big one.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import stat
import struct
import threading
import time
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import NamedTuple

from procwatchd.kernel.priority import leave_real_time

# Limits.
CACHED = 4096  # files
FILES_LIMIT = 512  # that are read, or wait for that: each is an open descriptor
HASHED_BYTES = 256 << 20

CHUNK_BYTES = 256 << 10
# How long a file must not have changed, so that one more change shows.
STEP_NS = 2_000_000_000

# struct statx { __u32 stx_mask, stx_blksize; __u64 stx_attributes; __u32 stx_nlink, stx_uid, stx_gid; __u16 stx_mode,
#   __spare0; __u64 stx_ino, stx_size, stx_blocks, stx_attributes_mask; struct statx_timestamp { __s64 tv_sec;
#   __u32 tv_nsec; __s32 __reserved; } stx_atime, stx_btime, stx_ctime, stx_mtime; __u32 stx_rdev_major,
#   stx_rdev_minor, stx_dev_major, stx_dev_minor; … }, 256 bytes
_STATX = struct.Struct("=28xH2xQQ48xqI4xqI4x8xII")
_BASIC_STATS, _EMPTY_PATH, _DONT_SYNC = 0x7FF, 0x1000, 0x4000

_libc = ctypes.CDLL(None)


@dataclass(slots=True)
class Checksum:
    """What is known of one by now: in hex, None where it is not, or is none.

    `is_late`: it is not there yet, or the file changed before it was.
    """

    value: str | None = None
    is_late: bool = True


NO_CHECKSUM = Checksum(is_late=False)


class Stamps(NamedTuple):
    """What tells a file from others, and from what it was before."""

    mode: int
    inode: int
    size: int
    changed_seconds: int
    changed_ns: int
    modified_seconds: int
    modified_ns: int
    major: int
    minor: int


def read_stamps(directory: int, name: bytes, flags: int) -> Stamps | None:
    """How the file of this name is, or for an empty one what is open as `directory`; None where that is not known."""
    buffer = ctypes.create_string_buffer(256)
    if _libc.statx(directory, name, flags, _BASIC_STATS, buffer):
        return None
    return Stamps(*_STATX.unpack_from(buffer))


@dataclass(slots=True)
class _File:
    """One that is being read; `path_fd` is open by O_PATH, `fd` to be read, once it is this one's turn."""

    path_fd: int
    stamps: Stamps
    checksum: Checksum
    fd: int | None = None
    offset: int = 0
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)

    def read(self, buffer: memoryview) -> bool:
        """Go on by one chunk; whether there is more. Raises OSError."""
        if self.fd is None:
            self.fd = os.open(f"/proc/self/fd/{self.path_fd}", os.O_RDONLY | os.O_CLOEXEC)
        count = os.preadv(self.fd, [buffer], self.offset)
        self.digest.update(buffer[:count])
        self.offset += count
        return count > 0 and self.offset < self.stamps.size

    @property
    def is_same(self) -> bool:
        """Whether it still is as it was looked at."""
        return read_stamps(self.path_fd, b"", _EMPTY_PATH) == self.stamps

    def close(self) -> None:
        """Let go of it."""
        for fd in (self.path_fd, self.fd):
            if fd is not None:
                # Whoever serves it may have an error for that, too; it is closed all the same.
                with contextlib.suppress(OSError):
                    os.close(fd)


class Hasher:
    """Hashes what is executed, each file once while it does not change. One thread asks.

    `skipped` counts what was not hashed: over `HASHED_BYTES`, or when too many files waited.
    """

    def __init__(self) -> None:
        self.skipped = 0
        # Also of those that are being read, whom all share that run the same.
        self._checksums: dict[Stamps | None, Checksum] = {}
        self._queue: SimpleQueue[_File | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def ask(self, directory: int) -> Checksum:
        """That of what the process runs whose directory in /proc this is: now or soon. Never waits for a file."""
        return self._checksums.get(read_stamps(directory, b"exe", _DONT_SYNC)) or self._begin(directory)

    def close(self) -> None:
        """End the thread, when it comes to it; does not wait."""
        self._queue.put(None)

    def _begin(self, directory: int) -> Checksum:
        try:
            fd = os.open("exe", os.O_PATH | os.O_CLOEXEC, dir_fd=directory)
        except OSError:
            return NO_CHECKSUM
        stamps = read_stamps(fd, b"", _EMPTY_PATH | _DONT_SYNC)
        if stamps is None or not stat.S_ISREG(stamps.mode):
            os.close(fd)
            return NO_CHECKSUM
        is_too_big = stamps.size > HASHED_BYTES
        if is_too_big or self._queue.qsize() >= FILES_LIMIT or not self._start():
            os.close(fd)
            self.skipped += 1
            return Checksum(is_late=not is_too_big)
        if len(self._checksums) >= CACHED:
            self._checksums.clear()
        checksum = Checksum()
        if time.time_ns() > stamps.changed_seconds * 1_000_000_000 + stamps.changed_ns + STEP_NS:
            self._checksums[stamps] = checksum
        self._queue.put(_File(fd, stamps, checksum))
        return checksum

    def _start(self) -> bool:
        if self._thread is None:
            # Before it runs: it may be over, and have said so, before it is known to have started.
            self._thread = threading.Thread(target=self._run, name="hasher", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:  # no more threads: the next that asks tries again
                self._thread = None
                return False
        return True

    def _run(self) -> None:
        """Read in turn what is in the queue; whatever ends that, the next that asks starts it again."""
        try:
            leave_real_time()  # which it has from whoever started it
            buffer = memoryview(bytearray(CHUNK_BYTES))
            while (file := self._queue.get()) is not None:
                self._read(file, buffer)
        finally:
            self._thread = None

    def _read(self, file: _File, buffer: memoryview) -> None:
        """Read on, and if that was all, tell what came of it."""
        is_more = is_read = False
        try:
            is_more = file.read(buffer)
            is_read = True
        except OSError:
            file.checksum.is_late = False
        finally:
            if is_more:
                self._queue.put(file)
            else:
                self._end(file, is_read=is_read)

    def _end(self, file: _File, *, is_read: bool) -> None:
        is_good = is_read and file.is_same
        file.close()
        if is_good:
            file.checksum.value = file.digest.hexdigest()
            file.checksum.is_late = False
        else:
            self._checksums.pop(file.stamps, None)
