# SPDX-License-Identifier: MIT
"""Where a command's data goes that is not for people: standard output, or the file of `--output`.

Command lines may hold what is not for everybody: such a file is for its owner alone.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import IO

from procwatchd.ctl.errors import CtlError
from procwatchd.ctl.past.entries import STANDARD_INPUT

STANDARD_OUTPUT = STANDARD_INPUT
_MODE = 0o600
# What is open already, which may be a file: there is more in it than what is written here.
_OPEN = ("/dev/stdin", "/dev/stdout", "/dev/stderr", "/dev/fd/", "/proc/")


@contextlib.contextmanager
def output_to(path: str | None, *, is_endless: bool = False) -> Iterator[IO[str]]:
    """What to write to, in UTF-8; a file is there when all of it is, or not at all, but an endless one as it comes.

    Raises CtlError where the file cannot be made.
    """
    if path is None or path == STANDARD_OUTPUT:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")
        yield sys.stdout
        return
    if not path:
        raise CtlError("the name of the file to write to is empty")
    make = _as_it_comes if is_endless or _is_special(path) else _when_complete
    with make(path) as file:
        yield file


def _is_special(path: str) -> bool:
    """Whether something is there that no file may take the place of, such as /dev/null or a pipe."""
    return _is_open_already(path) or (os.path.exists(path) and not os.path.isfile(path))


def _is_open_already(path: str) -> bool:
    return os.path.abspath(path).startswith(_OPEN)


@contextlib.contextmanager
def _as_it_comes(path: str) -> Iterator[IO[str]]:
    how = os.O_APPEND if _is_open_already(path) else os.O_CREAT | os.O_TRUNC
    try:
        number = os.open(path, os.O_WRONLY | how, _MODE)
    except (OSError, ValueError) as error:
        raise _cannot(path, error) from None
    with open(number, "w", encoding="utf-8") as file:
        yield file


@contextlib.contextmanager
def _when_complete(path: str) -> Iterator[IO[str]]:
    """A file that takes the place of what was there at the end, and goes away if that does not come."""
    real = os.path.realpath(path)
    try:
        # For its owner alone, too.
        number, temporary = tempfile.mkstemp(prefix=".procwatchctl.", dir=os.path.dirname(real))
    except (OSError, ValueError) as error:
        raise _cannot(path, error) from None
    try:
        with open(number, "w", encoding="utf-8") as file:
            yield file
        _replace(temporary, real, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _replace(temporary: str, real: str, path: str) -> None:
    try:
        os.replace(temporary, real)
    except OSError as error:
        raise _cannot(path, error) from None


def _cannot(path: str, error: Exception) -> CtlError:
    return CtlError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}")
