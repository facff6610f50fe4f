# SPDX-License-Identifier: MIT
"""The kernel's audit with a rule on execve, and an auditd.

It is the machine's where one runs, else one of our own, who writes to a directory of his own.

Facts:
- There is one audit for the machine: where it has rules already, or was locked, it is not ours to measure.
- Once it was enabled the kernel prepares every process for it until the next boot, unless a rule on the `task` list
  says never [kernel/auditsc.c, audit_alloc]. So that rule stands where audit is not what is measured.
- auditctl reads rules as they were added: a rule is deleted by the words that added it.
"""

from __future__ import annotations

import contextlib
import platform
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench.load import BenchError

# Those for whose 64 bits the rule's `b64` stands.
_ARCHITECTURES = ("x86_64", "aarch64")
_LOCKED = "2"
_RULE = ("-F", "arch=b64", "-S", "execve", "-S", "execveat", "-k", "procwatchd-bench")
_EXECS = "always,exit"
_NOBODY = "never,task"
_LOOK_SECONDS = 0.1
_PATIENCE_SECONDS = 5.0
_CONFIGURATION = """
local_events = yes
write_logs = yes
log_file = {directory}/audit.log
log_format = ENRICHED
flush = INCREMENTAL_ASYNC
freq = 50
max_log_file = 512
max_log_file_action = IGNORE
space_left = 2
space_left_action = IGNORE
admin_space_left = 1
admin_space_left_action = IGNORE
disk_full_action = IGNORE
disk_error_action = IGNORE
plugin_dir = {directory}/plugins.d
"""


def why_not() -> str | None:
    """Why audit cannot be measured on this machine, None where it can."""
    if platform.machine() not in _ARCHITECTURES:
        return "not on this machine's architecture"
    try:
        state = _state()
    except BenchError as error:
        return str(error)
    if state["enabled"] == _LOCKED or _auditctl("-l").strip() != "No rules":
        return "audit has rules already on this machine"
    return None


@contextlib.contextmanager
def untouched() -> Iterator[None]:
    """Within it auditd can be measured, and costs nothing where it is not; afterwards all is as it was."""
    backlog = _state()["backlog_limit"]
    _auditctl("-a", _NOBODY)
    _auditctl("-b", "8192")
    try:
        yield
    finally:
        _auditctl("-b", backlog)
        _auditctl("-d", _NOBODY)


@contextlib.contextmanager
def auditd() -> Iterator[None]:
    """Every exec is recorded, as long as this is not left; within `untouched`."""
    state = _state()
    with _running() if state["pid"] == "0" else contextlib.nullcontext():
        _auditctl("-d", _NOBODY)
        try:
            _auditctl("-a", _EXECS, *_RULE)
            _auditctl("-e", "1")
            yield
        finally:
            _auditctl("-e", state["enabled"])
            _auditctl("-d", _EXECS, *_RULE)
            _auditctl("-a", _NOBODY)


@contextlib.contextmanager
def _running() -> Iterator[None]:
    nowhere = subprocess.DEVNULL
    with tempfile.TemporaryDirectory(prefix="procwatchd-bench-") as directory:
        (Path(directory) / "plugins.d").mkdir()
        (Path(directory) / "auditd.conf").write_text(_CONFIGURATION.format(directory=directory))
        command = ["auditd", "-n", "-s", "nochange", "-c", directory]
        process = subprocess.Popen(command, stdin=nowhere, stdout=nowhere, stderr=nowhere)
        try:
            _wait_registered(process)
            yield
        finally:
            process.terminate()
            process.wait()


def _wait_registered(process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while _state()["pid"] != str(process.pid):
        if process.poll() is not None or time.monotonic() > deadline:
            raise BenchError("auditd does not start")
        time.sleep(_LOOK_SECONDS)


def _state() -> dict[str, str]:
    """What the kernel says of its audit, by name."""
    lines = (line.partition(" ") for line in _auditctl("-s").splitlines())
    return {name: value for name, _, value in lines}


def _auditctl(*arguments: str) -> str:
    try:
        done = subprocess.run(["auditctl", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise BenchError("there is no auditctl: apt-get install auditd") from None
    if done.returncode:
        raise BenchError(f"auditctl {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout
