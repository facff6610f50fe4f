# SPDX-License-Identifier: MIT
"""The runtime directory and the metrics in it."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from procwatchd.errors import AnotherRunsError, DeniedError
from procwatchd.metrics import metrics_text
from procwatchd.runtime import RuntimeDirectory


def test_one_daemon_a_directory(tmp_path: Path) -> None:
    path = str(tmp_path / "run")
    with (
        contextlib.closing(RuntimeDirectory(path)),
        pytest.raises(AnotherRunsError, match="another procwatchd"),
    ):
        RuntimeDirectory(path)
    RuntimeDirectory(path).close()


def test_a_directory_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DeniedError, match="RUNTIME_DIRECTORY"):
        RuntimeDirectory(str(tmp_path / "file" / "run"))


def test_the_end_of_listening_is_known_within_a_boot(tmp_path: Path) -> None:
    with contextlib.closing(RuntimeDirectory(str(tmp_path))) as directory:
        assert directory.last_listened_usec("b1") is None
        directory.write_stopped("b1", 123)
        assert directory.last_listened_usec("b1") == 123
        assert directory.last_listened_usec("b1") is None  # told once: the next one may have been killed
        directory.write_stopped("b1", 123)
        assert directory.last_listened_usec("b2") is None
        for nonsense in (b"", b"b1", b"b1 x", b"\xff 1", b"b1 1 2"):
            (tmp_path / "stopped").write_bytes(nonsense)
            assert directory.last_listened_usec("b1") is None


def test_metrics(tmp_path: Path) -> None:
    text = metrics_text({"RECEIVED": 12, "PENDING": 3})
    assert text == (
        "# TYPE procwatchd_received_total counter\nprocwatchd_received_total 12\n"
        "# TYPE procwatchd_pending gauge\nprocwatchd_pending 3\n"
    )
    with contextlib.closing(RuntimeDirectory(str(tmp_path))) as directory:
        directory.write_metrics(text)
        assert (tmp_path / "metrics.prom").read_text() == text
