# SPDX-License-Identifier: MIT
"""Why there is no recorder, and what the listener does where one fails."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from procwatchd.errors import DeniedError, KernelError
from procwatchd.kernel import recorder as recorder_module
from procwatchd.kernel.connector import Connector, Received
from procwatchd.kernel.listener import LONG_FILL, SHORT_BYTES, SHORT_FILL, Listener
from procwatchd.kernel.queue import Batch, BatchQueue
from procwatchd.kernel.recorder import Recorder, Recordings, is_64_bit
from procwatchd.kernel.wire import EVENT_BYTES


def refusing(monkeypatch: pytest.MonkeyPatch, error: OSError, release: str = "6.1.0") -> str:
    """What is said where the object is refused like this, by this kernel."""

    def refuse(_path: str, _entries: dict[str, int]) -> None:
        raise error

    monkeypatch.setattr(recorder_module, "BpfObject", refuse)
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(machine="x86_64", release=release))
    with pytest.raises((KernelError, DeniedError)) as refused:
        Recorder(__file__)
    return str(refused.value)


@pytest.fixture(autouse=True)
def able_kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A kernel with BTF and no lockdown; what is in the directory can be changed."""
    (tmp_path / "btf").touch()
    monkeypatch.setattr(recorder_module, "BTF", str(tmp_path / "btf"))
    monkeypatch.setattr(recorder_module, "LOCKDOWN", str(tmp_path / "lockdown"))
    return tmp_path


def test_without_an_object(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match="was not built: that takes clang"):
        Recorder(str(tmp_path / "none"))


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    why = OSError("libbpf.so.1: cannot open shared object file: No such file or directory")
    assert "needs libbpf.so.1" in refusing(monkeypatch, why)


def test_by_an_old_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Linux 5.17 or later" in refusing(monkeypatch, OSError(22, "Invalid argument"), "5.10.0-38")
    assert "does not take the recorder: Invalid" in refusing(monkeypatch, OSError(22, "Invalid argument"))


def test_by_one_without_types(monkeypatch: pytest.MonkeyPatch, able_kernel: Path) -> None:
    (able_kernel / "btf").unlink()
    assert "CONFIG_DEBUG_INFO_BTF" in refusing(monkeypatch, OSError(3, "No such process"))


def test_by_one_that_is_locked_down(monkeypatch: pytest.MonkeyPatch, able_kernel: Path) -> None:
    (able_kernel / "lockdown").write_text("none integrity [confidentiality]\n")
    assert "locked down" in refusing(monkeypatch, OSError(1, "Operation not permitted"))
    (able_kernel / "lockdown").write_text("none [integrity] confidentiality\n")
    assert "CAP_BPF" in refusing(monkeypatch, OSError(1, "Operation not permitted"))


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        *((machine, True) for machine in ("x86_64", "aarch64", "ppc64le", "riscv64", "s390x")),
        *((machine, False) for machine in ("i686", "armv7l", "mips")),
    ],
)
def test_the_programs_are_for_machines_of_64_bits(machine: str, expected: bool) -> None:
    assert is_64_bit(machine) is expected


class QuietConnector(Connector):
    """Has nothing to tell."""

    def __init__(self) -> None:
        self.receive_buffer_bytes = 64 << 20

    def wait(self, _timeout_seconds: float) -> bool:
        return True

    def wake(self) -> None:
        pass

    def receive(self) -> Received | None:
        return None

    def kernel_drops(self) -> int:
        return 0


class FailingRecorder(Recorder):
    """Has a descriptor, and no more."""

    def __init__(self) -> None:
        self.descriptor = os.eventfd(1)

    def fileno(self) -> int:
        return self.descriptor

    lost_execs = lost_signals = lost_pending = 0

    def drain(self) -> Recordings:
        raise OSError(14, "Bad address")


def test_a_listener_that_cannot_go_on_says_so() -> None:
    """Also where the last look at what there is fails, too: else nobody would notice."""
    ended = threading.Event()
    recorder, batches = FailingRecorder(), BatchQueue()
    listener = Listener(QuietConnector(), batches, recorder=recorder)
    try:
        listener.start([], ended.set, lambda _blindness: None)
        assert ended.wait(10)
        assert not listener.running
        assert listener.error is not None
        assert listener.error.errno == 14
    finally:
        os.close(recorder.descriptor)
        batches.close()


class LongRecorder(FailingRecorder):
    """Has a short and a long recording each time, and a signal."""

    def drain(self) -> Recordings:
        return Recordings([b"s" * SHORT_BYTES, b"l" * (SHORT_BYTES + 1)], [b"signal"])


@pytest.mark.parametrize(
    ("fill", "lengths"), [(0.0, [SHORT_BYTES, SHORT_BYTES + 1]), (LONG_FILL, [SHORT_BYTES]), (SHORT_FILL, [])]
)
def test_long_recordings_leave_room_for_others(fill: float, lengths: list[int]) -> None:
    """In a queue that is so full; events have all of it, and what has no room is counted."""
    recorder, batches = LongRecorder(), BatchQueue(1 << 20)
    listener = Listener(QuietConnector(), batches, recorder=recorder)
    try:
        assert batches.put(Batch(bytes(int(fill * (1 << 20)) // EVENT_BYTES * EVENT_BYTES + EVENT_BYTES)))
        listener.start([Received(bytes(EVENT_BYTES))], lambda: None, lambda _blindness: None)
        listener.stop()
        taken = [*batches.get(), *batches.get()][1]
        assert [len(item) for item in taken.recordings.execs] == lengths
        assert taken.recordings.signals == [b"signal"]
        assert (taken.execs_lost, taken.queue_lost) == (2 - len(lengths), 0)
    finally:
        os.close(recorder.descriptor)
        batches.close()
