# SPDX-License-Identifier: MIT
"""Files that are believed: those that only root and the daemon's user can change, or lead somewhere else."""

from __future__ import annotations

import errno
import os
import pwd
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from procwatchd.yamltree import FILE_LIMIT_BYTES, Mark, Problem

DAEMON_USER = "procwatchd"  # as the unit has it

# Limits.
LINK_LIMIT = 40  # symbolic links on the way to a file, as the kernel has it


@dataclass(frozen=True, slots=True)
class Source:
    """A file, and what is in it."""

    path: str
    data: bytes


def read_file(
    path: str,
    problems: list[Problem],
    *,
    is_trusted: bool = False,
    may_be_missing: bool = False,
) -> Source | None:
    """What is in a file; None with a problem noted, or where it may be missing and is."""

    def problem(what: str) -> None:
        problems.append(Problem(Mark(path), "file", what))

    try:
        # Non-blocking, since opening a FIFO would wait for a writer.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        if not may_be_missing or not isinstance(error, FileNotFoundError) or os.path.islink(path):
            problem(f"cannot be opened: {getattr(error, 'strerror', None) or error}")
        return None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            problem("is not a regular file")
        elif not is_trusted and (why := others_may_change(status) or others_may_redirect(path)):
            problem(why)
        else:
            return Source(path, _read_all(fd))
    except OSError as error:
        problem(f"cannot be read: {error.strerror}")
    finally:
        os.close(fd)
    return None


def _read_all(fd: int) -> bytes:
    """The file, at most one byte more than may be."""
    data = b""
    while len(data) <= FILE_LIMIT_BYTES:
        chunk = os.read(fd, FILE_LIMIT_BYTES + 1 - len(data))
        if not chunk:
            break
        data += chunk
    return data


def others_may_change(status: os.stat_result) -> str:
    """Why others than root and this process's user may change a file or directory; "" where they may not."""
    if status.st_uid not in _trusted_uids():
        return f"belongs to uid {status.st_uid}, who may change it: only root and the daemon's user may"
    others = stat.S_IWOTH if status.st_gid == 0 else stat.S_IWGRP | stat.S_IWOTH
    if status.st_mode & others:
        return f"has mode {stat.S_IMODE(status.st_mode):04o}: others than its owner may change it"
    return ""


def _trusted_uids() -> set[int]:
    """Root, this process's user, and where that is root the daemon's: `--check` must judge as the daemon does."""
    uids = {0, os.geteuid()}
    if uids == {0}:
        try:
            uids.add(pwd.getpwnam(DAEMON_USER).pw_uid)
        except KeyError:
            pass  # it runs as root here
    return uids


def others_may_redirect(path: str) -> str:
    """Why others may decide where a path leads; "" where they may not."""
    for place in _way_to(path):
        status = os.lstat(place)
        if (
            stat.S_ISDIR(status.st_mode)
            and status.st_mode & stat.S_ISVTX
            and status.st_uid in _trusted_uids()
        ):
            continue  # what is in it can be moved by its owner alone, who is looked at next
        if stat.S_ISLNK(status.st_mode):
            why = "" if status.st_uid in _trusted_uids() else f"belongs to uid {status.st_uid}"
        else:
            why = others_may_change(status)
        if why:
            return f"is reached through {place}, which {why}"
    return ""


def _way_to(path: str) -> Iterator[str]:
    """All directories and links that the kernel looks at for a path, from the root on, but not where it ends.

    Raises OSError.
    """
    place, left, links = "/", [*reversed(os.path.abspath(path).split("/"))], 0
    yield place
    while left:
        step = left.pop()
        if step in ("", "."):
            continue
        if step == "..":
            place = os.path.dirname(place)
            continue
        found = os.path.join(place, step)
        mode = os.lstat(found).st_mode
        if stat.S_ISLNK(mode):
            yield found
            links += 1
            if links > LINK_LIMIT:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            target = os.readlink(found)
            place = "/" if target.startswith("/") else place
            left += reversed(target.split("/"))
            continue
        place = found
        if left:
            yield place
