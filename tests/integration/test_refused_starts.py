# SPDX-License-Identifier: MIT
"""Where it cannot start: what the person who tried is told, and the exit status."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import pytest

from tests.integration.actor import Actor
from tests.integration.ledger import PREFIX
from tests.integration.running import PROCWATCHD, RunningDaemon, environment, of

NOBODY = 65534
AS_NOBODY = ("-m", "tests.integration.as_user", str(NOBODY))
# From here on the kernel lets anybody listen.
UNPRIVILEGED_SINCE = (6, 6)

BAD = """\
capture: {no-such-key: all}
log: {max-argv: lots}
rules:
  - name: one
    match: {cmdline|re: '('}
  - name: one
    match: {event: exec}
"""


def run(directory: Path, *arguments: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*before, sys.executable, *PROCWATCHD, *arguments],
        env=environment(directory),
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def run_as_nobody(directory: Path, config: str) -> subprocess.CompletedProcess[str]:
    """Where it is expected not to start."""
    path = directory / "procwatchd.yaml"
    path.write_text(config)
    return subprocess.run(
        [sys.executable, *AS_NOBODY, "-c", path, "--output", "text"],
        env=environment(directory),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that belongs to nobody; pytest's own are closed to others."""
    directory = Path(mkdtemp(prefix="procwatchd-"))
    os.chown(directory, NOBODY, NOBODY)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def good(tmp_path: Path) -> str:
    path = tmp_path / "good.yaml"
    path.write_text("rules: [{name: one, match: {event: exec}}]")
    return str(path)


@pytest.mark.parametrize(
    ("options", "missing"),
    [
        (("--net",), "network namespace"),
        (("--user", "--map-root-user"), "initial user namespace"),
        (("--pid", "--fork", "--mount-proc"), "initial pid namespace"),
    ],
)
def test_in_another_namespace(tmp_path: Path, good: str, options: tuple[str, ...], missing: str) -> None:
    ended = run(tmp_path, "-c", good, "--output", "text", before=("unshare", *options))
    assert ended.returncode == 69, ended
    assert missing in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""


@pytest.mark.parametrize("arguments", [(), ("--check",)])
def test_bad_configuration(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(BAD)
    ended = run(tmp_path, "-c", str(path), "--output", "text", *arguments)
    assert ended.returncode == 78
    lines = ended.stderr.splitlines()
    assert all(line.startswith(f"{path}:") for line in lines)
    assert {int(line.removeprefix(f"{path}:").split(":")[0]) for line in lines} == {1, 2, 5, 6}
    assert ended.stdout == ""
    assert not (tmp_path / "run").exists()


def test_a_good_configuration_is_only_checked(tmp_path: Path, good: str) -> None:
    ended = run(tmp_path, "-c", good, "--check")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "1 rule" in ended.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("wrong", ["--no-such-option", "--output=xml", "argument"])
def test_wrong_usage(tmp_path: Path, wrong: str) -> None:
    ended = run(tmp_path, wrong)
    assert ended.returncode == 2
    assert ended.stderr.startswith("usage: procwatchd ")
    assert not (tmp_path / "run").exists()


def test_without_privileges(open_directory: Path, steps: str) -> None:
    """Up to Linux 6.5 it is refused; later it works as far as a user may look, and says what is missing."""
    release = tuple(int(part) for part in os.uname().release.split(".")[:2])
    if release < UNPRIVILEGED_SINCE:
        ended = run_as_nobody(open_directory, "")
        assert ended.returncode == 77
        assert "CAP_NET_ADMIN" in ended.stderr
        return
    with RunningDaemon(open_directory, program=AS_NOBODY) as daemon:
        start = daemon.wait_entry(of("start"))
        assert start["PRIORITY"] == "4"
        assert "CAP_NET_ADMIN is missing" in start["MESSAGE"]
        with Actor(steps, "note", "roots", "wait") as actor:
            entry = daemon.wait_entry(of("exec", pid=actor.pid))
        assert entry[f"{PREFIX}CMDLINE"] == f"{steps} note roots wait"
        # Whose program that is, nobody may know.
        assert f"{PREFIX}EXE" not in entry
        assert (daemon.stop(), daemon.errors) == (0, [])


@pytest.mark.parametrize("accounting", ["auto", "on", "off"])
def test_without_accounting(open_directory: Path, steps: str, accounting: str) -> None:
    """Nobody may not have it: it starts without, unless it is told not to."""
    release = tuple(int(part) for part in os.uname().release.split(".")[:2])
    config = f"capture: {{accounting: {accounting}}}"
    if accounting == "on" or release < UNPRIVILEGED_SINCE:
        ended = run_as_nobody(open_directory, config)
        assert ended.returncode == 77
        assert "CAP_NET_ADMIN" in ended.stderr
        return
    with RunningDaemon(open_directory, config, program=AS_NOBODY) as daemon:
        assert "as far as the connector tells" in daemon.wait_entry(of("start"))["MESSAGE"]
        with Actor(steps, "exit", "9") as actor:
            actor.end()
        entry = daemon.wait_entry(of("exit", pid=actor.pid))
    assert (entry[f"{PREFIX}EXIT_CODE"], entry[f"{PREFIX}EXIT_SOURCE"]) == ("9", "connector")


def test_a_runtime_directory_that_is_not_ours(open_directory: Path) -> None:
    os.chown(open_directory, 0, 0)
    open_directory.chmod(0o755)
    ended = run_as_nobody(open_directory, "")
    assert ended.returncode == 77
    assert str(open_directory / "run") in ended.stderr
