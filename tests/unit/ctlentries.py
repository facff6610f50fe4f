# SPDX-License-Identifier: MIT
"""Entries of imagined processes, as JSON lines: what tests of procwatchctl's commands read."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

BOOT = "b" * 32
START_USEC = 1_700_000_000_000_000  # the wall clock's time of the boot


def entry(event: str, pid: int, at_usec: int, **fields: object) -> dict[str, Any]:
    """An entry about a process; `fields` without their prefix."""
    own = {"EVENT": event, "PID": pid, "PROCESS_ID": f"{pid}-1", "MONOTONIC_USEC": at_usec, **fields}
    return {
        "__REALTIME_TIMESTAMP": str(START_USEC + at_usec),
        "_BOOT_ID": BOOT,
        "_HOSTNAME": "vm",
        "PRIORITY": "6",
        "MESSAGE": f"{event} {fields.get('COMM', '?')}[{pid}]",
        **{f"PROCWATCH_{name}": str(value) for name, value in own.items()},
    }


def life(pid: int, of: int, at_usec: int, exe: str = "/usr/bin/cc1", **end: object) -> list[dict[str, Any]]:
    """A program's start and end: below `of`, 1 ms later with code 0, where `end` says no other."""
    who: dict[str, object] = {"COMM": exe.rpartition("/")[2], "EXE": exe, "CMDLINE": f"{exe} {pid}"}
    parent = {"PPID": of, "PARENT_PROCESS_ID": f"{of}-1", "PARENT_COMM": "sh"}
    took = {"EXIT_CODE": 0, "DURATION_USEC": 1000, **end}
    took = {name: value for name, value in took.items() if value is not None}
    return [
        entry("exec", pid, at_usec, **who, **parent),
        entry("exit", pid, at_usec + int(str(took["DURATION_USEC"])), **who, **parent, **took),
    ]


def write(directory: Path, *lines: Iterable[Any]) -> str:
    """A file of these entries; its path."""
    path = directory / "entries"
    texts = (one if isinstance(one, str) else json.dumps(one) for some in lines for one in some)
    path.write_text("".join(text + "\n" for text in texts))
    return str(path)
