# SPDX-License-Identifier: MIT
"""What is told to a service manager that keeps descriptors, and what of it comes back."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
from systemd import daemon as systemd_daemon

from procwatchd.store import Store


class Manager:
    """The other end of the notifications."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._socket.settimeout(10)

    def read(self) -> tuple[str, list[int]]:
        text, fds, _flags, _address = socket.recv_fds(self._socket, 4096, 8)
        return text.decode(), fds

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    manager = Manager(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", manager.path)
    monkeypatch.setenv("FDSTORE", "64")
    yield manager
    manager.close()


def hand_over(monkeypatch: pytest.MonkeyPatch, **given: int) -> None:
    """As if the manager had started us with these."""
    by_fd = {fd: name.replace("_", "-") for name, fd in given.items()}
    monkeypatch.setattr(systemd_daemon, "listen_fds_with_names", lambda: by_fd)


def test_what_is_kept_is_named_and_not_watched(manager: Manager) -> None:
    readable, writable = os.pipe()
    Store().keep("one", readable)
    text, fds = manager.read()
    assert text.splitlines() == ["FDSTORE=1", "FDNAME=one", "FDPOLL=0"]
    os.write(writable, b"x")
    assert os.read(fds[0], 1) == b"x"
    for fd in (readable, writable, *fds):
        os.close(fd)


@pytest.mark.parametrize("lacking", ["NOTIFY_SOCKET", "FDSTORE"])
def test_where_nobody_keeps_anything_nothing_is_told(
    manager: Manager, monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    monkeypatch.delenv(lacking)
    store = Store()
    assert not store.is_there
    store.keep("one", 0)
    store.drop("two")
    store.settle()
    monkeypatch.setenv(lacking, manager.path if lacking == "NOTIFY_SOCKET" else "64")
    Store().drop("marker")
    assert manager.read()[0].splitlines() == ["FDSTOREREMOVE=1", "FDNAME=marker"]


def test_what_was_kept_is_taken_once(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    hand_over(monkeypatch, one=100, recorder_a=101, recorder_b=102)
    store = Store()
    assert store.take("one") == 100
    assert store.take("one") is None
    assert store.take_all("recorder-") == {"a": 101, "b": 102}
    assert store.take_all("recorder-") == {}
    store.drop_rest()
    Store().drop("marker")
    assert manager.read()[0].endswith("marker")


def test_what_is_of_no_use_is_kept_no_longer(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    fd = os.memfd_create("a")
    hand_over(monkeypatch, recorder_a=fd)
    store = Store()
    store.give_back("recorder-", store.take_all("recorder-"))
    store.drop_rest()
    assert manager.read()[0].splitlines() == ["FDSTOREREMOVE=1", "FDNAME=recorder-a"]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_what_nobody_takes_is_closed_and_kept_no_longer(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    fd = os.memfd_create("left")
    hand_over(monkeypatch, left=fd)
    Store().drop_rest()
    assert manager.read()[0].splitlines() == ["FDSTOREREMOVE=1", "FDNAME=left"]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_memory_comes_back_once(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(file: BinaryIO) -> None:
        file.write(b"all of it")

    Store().keep_memory("state", write)
    _text, (fd,) = manager.read()
    hand_over(monkeypatch, state=fd)
    store = Store()
    assert store.take_memory("state") == b"all of it"
    assert store.take_memory("state") is None
    assert manager.read()[0].splitlines() == ["FDSTOREREMOVE=1", "FDNAME=state"]


def test_settled_is_what_the_manager_has_read(manager: Manager) -> None:
    store = Store()
    thread = threading.Thread(target=store.settle)
    thread.start()
    text, (fd,) = manager.read()
    assert text == "BARRIER=1"
    assert thread.is_alive()
    os.close(fd)
    thread.join(5)
    assert not thread.is_alive()
