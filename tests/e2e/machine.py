# SPDX-License-Identifier: MIT
"""A virtual machine that runs one scenario, and what came of it.

- /dev/kvm may exist and hang: QEMU's own translation (TCG) runs everywhere.
- cx16=off: QEMU 7.2 double-faulted without it in one of four runs. hpet=off: the guest's clock is steadier.
- The guest writes what it found to its second serial port, a line each: `ok NAME`, `not ok NAME: why`, `# …` for what
  one may want to know; and last `end`, or `reboot`, after which the same disk is booted again.
- The disk has no ext4 journal: what was not written back when a guest was ended from outside is missing from it.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

MEMORY_MIB = 1024
CPUS = 2
# For all of a boot; the longest takes a fifth of that on a machine that does nothing else.
BOOT_SECONDS = 900.0
POLL_SECONDS = 0.2
MAX_BOOTS = 5

QEMU = (
    *("setpriv", "--pdeathsig", "KILL"),  # it does not outlive who started it
    *("qemu-system-x86_64", "-M", "q35,accel=tcg,hpet=off", "-cpu", "max,cx16=off"),
    *("-smp", str(CPUS), "-m", str(MEMORY_MIB), "-nodefaults", "-no-user-config", "-display", "none"),
    *("-no-reboot", "-net", "none"),
)
# Of the journal: the service manager, the kernel, what the daemon says of itself, and what else came on its stderr.
TOLD_OF_FAILURES = [
    *("_PID=1", "+", "_TRANSPORT=kernel", "+", "_TRANSPORT=stdout", "+"),
    *(
        f"PROCWATCH_EVENT={event}"
        for event in ("start", "stop", "reload", "loss", "blind", "resync", "statistics")
    ),
]
APPEND = "console=ttyS0 root=/dev/nvme0n1 rw panic=-1 quiet mitigations=off systemd.show_status=0"


@dataclass(slots=True)
class Outcome:
    """What a guest said, and whether it came to its end."""

    passed: int = 0
    failed: list[str] = field(default_factory=list)
    ended: bool = False

    @property
    def is_good(self) -> bool:
        """Whether all went well, and all was done."""
        return self.ended and self.passed > 0 and not self.failed


class Machine:
    """One guest, with its disk and what it wrote in `directory`; `tell` is given each line of its results."""

    def __init__(self, directory: Path, kernel: Path, scenario: str, tell: Callable[[str], None]) -> None:
        self._directory = directory
        self._kernel = kernel
        self._scenario = scenario
        self._tell = tell
        self.outcome = Outcome()

    @property
    def disk(self) -> Path:
        """The guest's."""
        return self._directory / "disk.img"

    def run(self) -> Outcome:
        """Boot it until its scenario has ended."""
        for boot in range(1, MAX_BOOTS + 1):
            last = self._boot(boot)
            if last != "reboot":
                self.outcome.ended = last == "end"
                break
        return self.outcome

    def _boot(self, boot: int) -> str:
        """One boot; gives the last line of the results."""
        result = self._directory / f"result-{boot}"
        result.touch()
        with (self._directory / "qemu.log").open("ab") as log:
            process = subprocess.Popen(self._command(boot), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            return self._follow(process, result)
        finally:
            process.kill()
            process.wait()

    def _command(self, boot: int) -> list[str]:
        return [
            *QEMU,
            *(
                "-serial",
                f"file:{self._directory}/console-{boot}",
                "-serial",
                f"file:{self._directory}/result-{boot}",
            ),
            *("-drive", f"id=disk,if=none,format=raw,file={self.disk},cache=unsafe"),
            *("-device", "nvme,serial=disk,drive=disk"),
            *(
                "-kernel",
                str(self._kernel),
                "-append",
                f"{APPEND} e2e.scenario={self._scenario} e2e.boot={boot}",
            ),
        ]

    def _follow(self, process: subprocess.Popen[bytes], result: Path) -> str:
        """Take in the results as they come, until the machine is off or its time is up."""
        deadline = time.monotonic() + BOOT_SECONDS
        last = rest = ""
        with result.open(errors="replace", newline="") as output:
            while True:
                is_over = process.poll() is not None or time.monotonic() > deadline
                *lines, rest = (rest + output.read()).split("\r\n")
                for line in lines:
                    last = self._take(line)
                if is_over:
                    return last
                time.sleep(POLL_SECONDS)

    def _take(self, line: str) -> str:
        if line.startswith("ok "):
            self.outcome.passed += 1
        elif line.startswith("not ok "):
            self.outcome.failed.append(line)
        self._tell(line)
        return line

    def story(self) -> str:
        """For people, when it went wrong: what was on the console, and the end of the journal."""
        consoles = sorted(self._directory.glob("console-*"))
        parts = [f"== {path.name}\n{path.read_text(errors='replace')}" for path in consoles]
        return "\n".join([*parts, "== journal", self._journal()])

    def _journal(self) -> str:
        target = self._directory / "journal"
        target.mkdir(exist_ok=True)
        command = ["debugfs", "-R", f"rdump /var/log/journal {target}", str(self.disk)]
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        command = ["journalctl", "-q", "--no-pager", "-o", "short-monotonic", "-n", "200"]
        command += ["-D", str(target / "journal"), *TOLD_OF_FAILURES]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        return done.stdout + done.stderr
