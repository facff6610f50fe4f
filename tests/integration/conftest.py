# SPDX-License-Identifier: MIT
"""What the integration tests share: compiled helpers, cgroups of their own, and a look at what is left behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.journald import PrivateJournald
from tests.integration.running import RunningDaemon

SOURCES = Path(__file__).parent / "helpers"


@pytest.fixture(scope="session")
def helpers() -> Iterator[Path]:
    """The directory with the compiled helpers, each by the name of its source; any user may run them."""
    # pytest's own directories are closed to other users.
    directory = Path(tempfile.mkdtemp(prefix="procwatchd-helpers-"))
    directory.chmod(0o755)
    flags = ["-O2", "-Wall", "-Wextra", "-Werror", "-pthread"]
    for source in SOURCES.glob("*.c"):
        subprocess.run(["cc", *flags, "-o", directory / source.stem, source], check=True)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def steps(helpers: Path) -> str:
    """The path of the program that does what its arguments say."""
    return str(helpers / "steps")


@pytest.fixture
def journald() -> Iterator[PrivateJournald]:
    """A journald of the test's own."""
    with PrivateJournald() as journald:
        yield journald


# Everything of every process that the tests start, with all fields; a busy machine has enough to do without the rest.
EVERYTHING = f"""
capture: {{events: all, threads: on}}
log: {{fields: all}}
redact: {{builtin: off}}
rules:
  - name: others
    match: {{not: {{ancestor.pid: {os.getpid()}}}}}
    action: drop
  - name: marked
    match: {{cmdline|contains: marked-by-a-rule}}
    action: tag
    tags: [first, second]
  - name: decided
    match: {{cmdline|contains: marked-by-a-rule}}
    priority: notice
"""


def everything_by(arguments: str) -> str:
    """The configuration that logs everything, with this source of arguments."""
    return EVERYTHING.replace("capture: {", f"capture: {{arguments: {arguments}, ")


@pytest.fixture(scope="module", params=["journal", "json"])
def each_output(request: pytest.FixtureRequest) -> Iterator[RunningDaemon]:
    """A daemon that logs everything, once into a real journald, and once without the recorder as JSON lines."""
    with tempfile.TemporaryDirectory(prefix="procwatchd-") as directory:
        if request.param == "json":
            with RunningDaemon(Path(directory), everything_by("proc")) as daemon:
                yield daemon
        else:
            with (
                PrivateJournald() as journald,
                RunningDaemon(Path(directory), everything_by("recorder"), journald=journald) as daemon,
            ):
                yield daemon


@pytest.fixture(scope="module")
def everything() -> Iterator[RunningDaemon]:
    """A daemon that logs everything as JSON lines."""
    with (
        tempfile.TemporaryDirectory(prefix="procwatchd-") as directory,
        RunningDaemon(Path(directory), EVERYTHING) as daemon,
    ):
        yield daemon


@pytest.fixture
def cgroups() -> Path:
    """The root of the hierarchy that systemd goes by. What a test makes below it, it removes."""
    root = Path("/sys/fs/cgroup")
    hybrid = root / "systemd"
    return root if (root / "cgroup.procs").exists() else hybrid


@pytest.fixture(scope="session", autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """No process started here outlives the tests."""
    before = _children()
    yield
    assert _children() <= before


def _children() -> set[str]:
    found: set[str] = set()
    for task in Path("/proc/self/task").iterdir():
        found.update((task / "children").read_text().split())
    return found - {str(os.getpid())}
