# SPDX-License-Identifier: MIT
"""What the checks of `doctor` look at: files below a root, the service manager's word, who runs; and what they find.

Facts:
- `systemctl show` gives NAME=VALUE lines, also for a unit that is not there [systemctl(1)].
- A service of systemd's has $RUNTIME_DIRECTORY and $STATE_DIRECTORY of its own, and so has a monitoring agent that
  calls procwatchctl [systemd.exec(5)].
"""

from __future__ import annotations

import enum
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from procwatchd.config import Config, load_config
from procwatchd.ctl.errors import CtlError
from procwatchd.ctl.health.metricsfile import find_runner
from procwatchd.ctl.past.entries import number_of
from procwatchd.ctl.past.facts import UNIT
from procwatchd.ctl.past.journal import DIRECTORIES, FILES, why_unreadable
from procwatchd.errors import ConfigError
from procwatchd.runtime import RUNTIME_DIRECTORY, STATE_DIRECTORY
from procwatchd.trusted import DAEMON_USER

COMMAND_SECONDS = 2.0
READ_LIMIT_BYTES = 1 << 20
DAY_USEC = 86_400_000_000
PROPERTIES = (
    *("LoadState", "ActiveState", "SubState", "Result", "NRestarts", "UnitFileState", "DropInPaths"),
    *("MainPID", "ExecMainStatus", "StatusText", "NeedDaemonReload"),
    *("ConditionResult", "ConditionTimestampMonotonic"),
    *("LogRateLimitIntervalUSec", "LogRateLimitBurst", "LogNamespace"),
)

# What the daemon has a use for.
CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_SYS_PTRACE": 19, "CAP_PERFMON": 38, "CAP_BPF": 39}


class Level(enum.Enum):
    """How bad it is."""

    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Finding:
    """A line of the report: what was found, what is to be done about it, and the numbers in it for programs."""

    check: str
    level: Level
    found: str
    advice: str = ""
    values: Mapping[str, object] = field(default_factory=dict)


def ok(check: str, found: str, **values: object) -> Finding:
    """Nothing is to be done."""
    return Finding(check, Level.OK, found, values=values)


def warn(check: str, found: str, advice: str = "", **values: object) -> Finding:
    """It goes on, but something is missing, or may be soon; or nobody could look."""
    return Finding(check, Level.WARN, found, advice, values)


def fail(check: str, found: str, advice: str = "", **values: object) -> Finding:
    """It does not work, or entries are missing or are not to be trusted."""
    return Finding(check, Level.FAIL, found, advice, values)


def run_command(words: Sequence[str]) -> str:
    """What a command writes. Raises CtlError where it fails, or takes too long."""
    environment = {**os.environ, "LC_ALL": "C", "SYSTEMD_PAGER": "", "SYSTEMD_COLORS": "0"}
    try:
        done = subprocess.run(
            words,
            capture_output=True,
            timeout=COMMAND_SECONDS,
            env=environment,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise CtlError(f"{words[0]} did not answer within {COMMAND_SECONDS:.0f} seconds") from None
    except OSError as error:
        raise CtlError(f"{words[0]} cannot be run: {error.strerror}") from None
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or [f"status {done.returncode}"]
        raise CtlError(f"{words[0]}: {lines[0]}")
    return done.stdout.decode(errors="replace")


class System:
    """A machine: its files are below `root`, but for its journal; `run` runs commands. What takes time is done once."""

    def __init__(
        self,
        root: str = "",
        run: Callable[[Sequence[str]], str] = run_command,
        *,
        is_root: bool | None = None,
        journal_root: str | None = None,
    ) -> None:
        self.root = root
        self.journal_root = root if journal_root is None else journal_root
        self.run = run
        self.is_root = os.geteuid() == 0 if is_root is None else is_root
        self.now_usec = time.time_ns() // 1000
        self.monotonic_usec = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000

    @property
    def is_real(self) -> bool:
        """Whether it is this machine, whose kernel can be asked."""
        return not self.root

    def read(self, path: str) -> str:
        """A file as text, at most its beginning. Raises OSError."""
        with open(self.root + path, "rb") as file:
            return file.read(READ_LIMIT_BYTES).decode("utf-8", "replace")

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""
        return os.path.exists(self.root + path)

    @cached_property
    def release(self) -> str:
        """The kernel's version, as uname(1) has it."""
        return self.read("/proc/sys/kernel/osrelease").strip()

    @cached_property
    def kernel(self) -> tuple[int, int]:
        """The first two numbers of it; zeros where they are none."""
        numbers = [int(word) if word.isdecimal() else 0 for word in self.release.split("-")[0].split(".")[:2]]
        return (numbers[0], numbers[1]) if len(numbers) == 2 else (0, 0)

    @cached_property
    def _unit(self) -> tuple[Mapping[str, str], str]:
        try:
            text = self.run(["systemctl", "show", UNIT, f"--property={','.join(PROPERTIES)}"])
        except CtlError as error:
            return {}, str(error)
        return dict(line.partition("=")[::2] for line in text.splitlines()), ""

    @property
    def unit(self) -> Mapping[str, str]:
        """What the service manager says of the unit; nothing where it cannot be asked."""
        return self._unit[0]

    @property
    def why_no_unit(self) -> str:
        """Why the service manager could not be asked."""
        return self._unit[1]

    @property
    def main_pid(self) -> int:
        """The process of the daemon that the service manager started; 0 for none."""
        return number_of(self.unit.get("MainPID")) or 0

    @property
    def metrics_file(self) -> str:
        """What the daemon writes for Prometheus."""
        return f"{self._directory('RUNTIME_DIRECTORY', RUNTIME_DIRECTORY)}/metrics.prom"

    @property
    def state_directory(self) -> str:
        """Where it has its key."""
        return self._directory("STATE_DIRECTORY", STATE_DIRECTORY)

    def _directory(self, variable: str, fixed: str) -> str:
        return self.root + (fixed if self.main_pid else os.environ.get(variable, fixed))

    @cached_property
    def machine_id(self) -> str:
        """By which journald calls the directory of its files. Raises OSError."""
        return self.read("/etc/machine-id").strip()

    @cached_property
    def boot_id(self) -> str:
        """The boot that the machine is in; "" where that cannot be seen."""
        try:
            return self.read("/proc/sys/kernel/random/boot_id").strip()
        except OSError:
            return ""

    @cached_property
    def daemon_pid(self) -> int | None:
        """The process of the daemon, whoever started it; None where none runs."""
        if self.main_pid:
            return self.main_pid
        runner = find_runner(self.metrics_file, f"{self.root}/proc")
        return None if runner is None else runner.pid

    @cached_property
    def why_no_journal(self) -> str:
        """Why its journal cannot be read; "" where it can."""
        files, directories = (
            [f"{self.journal_root}{path}" for path in paths] for paths in (FILES, DIRECTORIES)
        )
        return why_unreadable(tuple(files), tuple(directories))

    @property
    def daemon_uid(self) -> int | None:
        """Whose the daemon's processes are, if there is such a user."""
        return self._daemon_ids[0]

    @property
    def daemon_gids(self) -> frozenset[int]:
        """The groups that they are in."""
        return self._daemon_ids[1]

    @cached_property
    def _daemon_ids(self) -> tuple[int | None, frozenset[int]]:
        """By the process that runs, else by the user's name."""
        status = self._fields(f"/proc/{self.daemon_pid}/status")
        if "Uid" in status:
            gids = [*status.get("Gid", [""])[0].split(), *status.get("Groups", [""])[0].split()]
            return number_of(status["Uid"][0].split()[0]), frozenset(map(int, gids))
        uid, gid = [*self._fields("/etc/passwd").get(DAEMON_USER, [])[1:3], "", ""][:2]
        groups = self._fields("/etc/group").values()
        gids = [gid, *(group[1] for group in groups if DAEMON_USER in ",".join(group[2:]).split(","))]
        return number_of(uid), frozenset(found for one in gids if (found := number_of(one)) is not None)

    def _fields(self, path: str) -> dict[str, list[str]]:
        """What stands on each line between colons, by the first of it; nothing where it cannot be read."""
        try:
            lines = self.read(path).splitlines()
        except OSError:
            return {}
        return {name: values for name, *values in (line.split(":") for line in lines)}

    @cached_property
    def config(self) -> Config | None:
        """What the daemon is configured to do; None where the configuration is bad."""
        try:
            return self.load_config()
        except ConfigError:
            return None

    def load_config(self) -> Config:
        """The configuration in /etc. Raises ConfigError."""
        return load_config(
            main_file=f"{self.root}/etc/procwatchd.yaml", drop_in_directory=f"{self.root}/etc/procwatchd.d"
        )

    def capabilities(self, pid: int | str, which: str) -> frozenset[str] | None:
        """Those of a process that the daemon has a use for; `which` is as /proc/PID/status has it. None: unknown."""
        found = self._fields(f"/proc/{pid}/status").get(which)
        if not found:
            return None
        mask = int(found[0], 16)
        return frozenset(name for name, bit in CAPABILITIES.items() if mask >> bit & 1)
