# SPDX-License-Identifier: MIT
"""The runtime directory and the metrics in it."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from procwatchd import __version__
from procwatchd.errors import AnotherRunsError, DeniedError
from procwatchd.metrics import metrics_text
from procwatchd.runtime import KEY_FILE, RuntimeDirectory, keep_key


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
    text = metrics_text({"RECEIVED": 12, "PENDING": 3}, {("noise", "drop"): 4, (None, "log"): 5})
    assert text == (
        f'# TYPE procwatchd_info gauge\nprocwatchd_info{{version="{__version__}"}} 1\n'
        "# TYPE procwatchd_received_total counter\nprocwatchd_received_total 12\n"
        "# TYPE procwatchd_pending gauge\nprocwatchd_pending 3\n"
        "# TYPE procwatchd_rule_events_total counter\n"
        'procwatchd_rule_events_total{rule="noise",action="drop"} 4\n'
        'procwatchd_rule_events_total{rule="",action="log"} 5\n'
    )
    with contextlib.closing(RuntimeDirectory(str(tmp_path))) as directory:
        directory.write_metrics(text)
        assert (tmp_path / "metrics.prom").read_text() == text


def test_a_key_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    directory = str(tmp_path / "state")
    key, why = keep_key(32, directory)
    assert (len(key), why) == (32, "")
    assert keep_key(32, directory) == (key, "")
    assert keep_key(32, str(tmp_path / "other"))[0] != key
    assert (tmp_path / "state" / KEY_FILE).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    assert [path.name for path in (tmp_path / "state").iterdir()] == [KEY_FILE]


def test_the_place_of_the_key_is_the_service_managers_to_choose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    assert keep_key(32) == ((tmp_path / KEY_FILE).read_bytes(), "")


def test_a_key_that_is_none_or_no_secret_is_not_used(tmp_path: Path) -> None:
    file = tmp_path / KEY_FILE
    for content, mode, why in (
        (b"short", 0o600, "is no key of 32 bytes"),
        (b"k" * 32, 0o640, "owner's alone"),
    ):
        file.write_bytes(content)
        file.chmod(mode)
        first, told = keep_key(32, str(tmp_path))
        second, _ = keep_key(32, str(tmp_path))
        assert why in told
        assert len({first, second, content}) == 3
        assert file.read_bytes() == content
    file.unlink()
    file.symlink_to("/dev/zero")
    assert keep_key(32, str(tmp_path))[1].endswith("Too many levels of symbolic links")


def test_where_no_key_can_be_kept_it_is_this_runs(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    key, why = keep_key(32, str(tmp_path / "file" / "state"))
    assert len(key) == 32
    assert "Not a directory" in why
