# SPDX-License-Identifier: MIT
"""The service as its users have it: `systemctl`, `journalctl`, a file of rules; and what it wrote."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.e2e.guest.report import wait_until

UNIT = "procwatchd.service"
PREFIX = "PROCWATCH_"
CONFIGURATION = Path("/etc/procwatchd.yaml")
DROP_IN = Path("/etc/procwatchd.d/e2e.yaml")
# What the unit gives, by the kernel's numbers.
CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_SYS_PTRACE": 19, "CAP_PERFMON": 38, "CAP_BPF": 39}

# A field's value is a str where it is UTF-8, else bytes; a list where the field is repeated.
Entry = dict[str, Any]
Wanted = Callable[[Entry], bool]


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command, with what it prints in `stdout`, errors among it."""
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )


def systemctl(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`systemctl` with these arguments, then the service."""
    return run("systemctl", *arguments, UNIT)


def install(package: str) -> subprocess.CompletedProcess[str]:
    """Have apt install one of the packages from behind the file system, with what it depends on."""
    options = ("-o", "Dpkg::Use-Pty=0", "-o", "DPkg::Options::=--force-confold", "--no-install-recommends")
    # The recorder's library is named in case it is but recommended.
    return run(
        "env",
        "DEBIAN_FRONTEND=noninteractive",
        "apt-get",
        "-q",
        "-y",
        *options,
        "install",
        package,
        "libbpf1",
    )


def shown(name: str) -> str:
    """A property of the service."""
    return run("systemctl", "show", "--value", "-p", name, UNIT).stdout.strip()


def main_pid() -> int:
    """The daemon's, 0 where there is none."""
    return int(shown("MainPID"))


def configure(text: str) -> None:
    """Have this over the shipped configuration, from the next start or reload on."""
    DROP_IN.parent.mkdir(exist_ok=True)
    DROP_IN.write_text(text)


def field(entry: Entry, name: str) -> Any:
    """A field's value by its name without the prefix; None where it is absent."""
    return entry.get(PREFIX + name)


def of(event: str, **fields: object) -> Wanted:
    """Tells entries of this event whose fields (lower case, without prefix) are these."""
    wanted = {f"{PREFIX}{name.upper()}": str(value) for name, value in fields.items()}
    wanted[f"{PREFIX}EVENT"] = event
    return lambda entry: all(entry.get(name) == value for name, value in wanted.items())


class Entries:
    """The service's entries, from when this was made on (or of this whole boot)."""

    def __init__(self, *, whole_boot: bool = False) -> None:
        self.all: list[Entry] = []
        self._cursor = "" if whole_boot else _last_cursor()

    def having(self, wanted: Wanted) -> list[Entry]:
        """Those so far that are wanted."""
        self._pull()
        return [entry for entry in self.all if wanted(entry)]

    def wait(self, wanted: Wanted, *, count: int = 1, seconds: float = 30.0) -> list[Entry]:
        """Those that are wanted, as soon as there are so many; what there is where they do not come."""
        wait_until(lambda: len(self.having(wanted)) >= count, seconds)
        return self.having(wanted)

    def one(self, wanted: Wanted) -> Entry:
        """The first that is wanted, once it is there; raises where it does not come."""
        found = self.wait(wanted)
        if not found:
            raise AssertionError(f"no such entry; the last: {[entry['MESSAGE'] for entry in self.all[-8:]]}")
        return found[0]

    def settle(self) -> Entry:
        """Wait until all is written that happened by now; gives the statistics that say so."""
        known = len(self.having(of("statistics")))
        systemctl("kill", "--kill-whom=main", "-s", "USR1")
        found = self.wait(of("statistics"), count=known + 1, seconds=60)
        if len(found) <= known:
            raise AssertionError("the daemon does not answer")
        return found[-1]

    def _pull(self) -> None:
        since = ("--after-cursor", self._cursor) if self._cursor else ()
        found = _journal("-u", UNIT, "--all", *since)
        if found:
            self._cursor = found[-1]["__CURSOR"]
        self.all += found


def _last_cursor() -> str:
    return str(_journal("-n", "1")[-1]["__CURSOR"])


def _journal(*arguments: str) -> list[Entry]:
    """The entries of this boot that `journalctl` has for these arguments, all that was sent by now among them."""
    run("journalctl", "-q", "--sync")
    # What it has to say of a file that is just being rotated is no entry.
    command = ("journalctl", "-q", "-b", "-o", "json", *arguments)
    lines = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False).stdout
    return [_decoded(json.loads(line)) for line in lines.splitlines()]


def _decoded(entry: dict[str, Any]) -> Entry:
    return {name: _value(value) for name, value in entry.items()}


def _value(value: Any) -> Any:
    """Back from JSON: an array of numbers is bytes."""
    if isinstance(value, list) and value and all(isinstance(one, int) for one in value):
        return bytes(value)
    return value
