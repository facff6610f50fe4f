# SPDX-License-Identifier: MIT
"""Checksums of files that change, are big, or are many; and nobody waits for one."""

from __future__ import annotations

import hashlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from procwatchd.process import executables
from procwatchd.process.executables import HASHED_BYTES, Checksum, Hasher

PATIENCE_SECONDS = 20.0


class Asker:
    """Asks a hasher of its own for the checksums of files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.hasher = Hasher()
        self._open_before = _open_files()

    def ask(self, path: Path | str) -> Checksum:
        """What is known of it now, where a process runs it."""
        link = self.directory / "exe"
        link.unlink(missing_ok=True)
        link.symlink_to(path)
        fd = os.open(self.directory, os.O_DIRECTORY)
        try:
            return self.hasher.ask(fd)
        finally:
            os.close(fd)

    def wait(self, checksum: Checksum) -> str | None:
        """What it is, once it is there."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while checksum.is_late:
            assert time.monotonic() < deadline, "it did not come"
            time.sleep(0.0005)
        return checksum.value

    def wait_for_all(self) -> None:
        """Until no file is open."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while _open_files() > self._open_before:
            assert time.monotonic() < deadline, "files stay open"
            time.sleep(0.0005)


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def asker(tmp_path: Path) -> Iterator[Asker]:
    asker = Asker(tmp_path)
    yield asker
    asker.wait_for_all()
    asker.hasher.close()


def sparse(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


def test_it_is_that_of_the_whole_file(asker: Asker, tmp_path: Path) -> None:
    program = tmp_path / "program"
    for size in (1, executables.CHUNK_BYTES, executables.CHUNK_BYTES * 2 + 1):
        content = os.urandom(size)
        program.write_bytes(content)
        assert asker.wait(asker.ask(program)) == hashlib.sha256(content).hexdigest()


def test_a_file_that_does_not_change_is_read_once(asker: Asker) -> None:
    first = asker.ask(sys.executable)
    assert asker.ask(sys.executable) is first  # though it is not there yet
    asker.wait(first)
    again = asker.ask(sys.executable)
    assert (again.value, again.is_late) == (first.value, False)
    with open(sys.executable, "rb") as file:
        assert first.value == hashlib.file_digest(file, "sha256").hexdigest()


def test_changes_in_one_moment_are_seen(asker: Asker, tmp_path: Path) -> None:
    """Though size and times may be the same."""
    program = tmp_path / "program"
    program.write_bytes(b"0000")
    for number in range(20):
        content = b"%04d" % number
        with program.open("r+b") as file:
            file.write(content)
        checksum = asker.ask(program)
        assert asker.wait(checksum) == hashlib.sha256(content).hexdigest()
        assert asker.ask(program) is not checksum
        asker.wait_for_all()


def test_of_what_was_changed_before_it_was_read_there_is_none(asker: Asker, tmp_path: Path) -> None:
    program = sparse(tmp_path / "program", HASHED_BYTES)
    checksum = asker.ask(program)
    with program.open("r+b") as file:
        file.seek(HASHED_BYTES - 1)
        file.write(b"x")
    asker.wait_for_all()
    assert checksum == Checksum(None, is_late=True)
    # The next that runs it has the new one's.
    assert asker.ask(program) is not checksum
    asker.wait_for_all()


def test_a_big_file_keeps_nobody_waiting(asker: Asker, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.write_bytes(b"#!")
    big = asker.ask(sparse(tmp_path / "big", HASHED_BYTES))
    assert asker.wait(asker.ask(small)) == hashlib.sha256(b"#!").hexdigest()
    assert big.is_late
    assert asker.wait(big) is not None
    assert asker.hasher.skipped == 0


def test_what_is_too_big_is_counted(asker: Asker, tmp_path: Path) -> None:
    big = sparse(tmp_path / "big", HASHED_BYTES + 1)
    assert asker.ask(big) == Checksum(None, is_late=False)
    assert asker.hasher.skipped == 1


def test_what_has_no_room_is_counted(asker: Asker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executables, "FILES_LIMIT", 4)
    checksums = [asker.ask(sparse(tmp_path / f"big{n}", HASHED_BYTES)) for n in range(20)]
    assert 20 - 4 - 1 <= asker.hasher.skipped <= 20 - 4  # one is in the thread's hands
    for n in range(20):
        os.truncate(tmp_path / f"big{n}", 0)
    asker.wait_for_all()
    assert all(checksum.is_late for checksum in checksums)


def test_what_is_remembered_has_a_limit(
    asker: Asker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executables, "CACHED", 8)
    for n in range(100):
        asker.ask(sparse(tmp_path / f"program{n}", 1 + n))
    asker.wait_for_all()
    assert asker.wait(asker.ask(sys.executable))


def test_what_is_no_file_has_none(asker: Asker, tmp_path: Path) -> None:
    """To open a FIFO would be to wait for who writes to it."""
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path, "/dev/zero", tmp_path / "missing"):
        assert asker.ask(path) == Checksum(None, is_late=False)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("error", [OSError(5, "x"), MemoryError(), ValueError("x")])
def test_whatever_happens_to_one_file_the_others_are_hashed(
    asker: Asker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    with monkeypatch.context() as patch:

        def fail(*_arguments: object) -> int:
            patch.undo()
            raise error

        patch.setattr(os, "preadv", fail)
        failed = asker.ask(sparse(tmp_path / "failed", 5))
        asker.wait_for_all()
    assert failed.value is None
    assert asker.wait(asker.ask(sys.executable))


def test_an_error_at_the_close_ends_nothing(
    asker: Asker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    close = os.close

    def fail(fd: int) -> None:
        close(fd)
        if threading.current_thread().name == "hasher":
            raise OSError(5, "x")

    monkeypatch.setattr(os, "close", fail)
    for name in ("one", "other"):
        assert asker.wait(asker.ask(sparse(tmp_path / name, 5)))
    asker.wait_for_all()


def test_a_thread_that_is_over_at_once_is_not_taken_for_one_that_runs(
    asker: Asker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Over(threading.Thread):
        def start(self) -> None:
            with pytest.raises(OSError, match="over"):
                self.run()

    def fails() -> None:
        raise OSError("over")

    with monkeypatch.context() as patched:
        patched.setattr(executables, "leave_real_time", fails)
        patched.setattr(threading, "Thread", Over)
        checksum = asker.ask(sparse(tmp_path / "one", 5))
    asker.ask(sparse(tmp_path / "other", 5))
    assert asker.wait(checksum)
