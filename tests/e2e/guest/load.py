# SPDX-License-Identifier: MIT
"""A load that knows what it did: processes, and what entries there must be of them.

The rate is what is tried. An emulated processor on a busy host starts some 20 to 50 processes a second beside what is
done meanwhile, so that all it can do is asked of it; a tenth of RATE is insisted on. Higher rates over a restart are
tests/integration/test_restart.py's.

`python3 -m tests.e2e.guest.load TAG RATE` runs until its standard input ends, then prints what it made. What it starts
ends at once: the hardest to see, and the least that an emulated processor can be asked for.
"""

from __future__ import annotations

import json
import os
import select
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

from tests.e2e.guest.report import check, note
from tests.e2e.guest.service import Entry, field

RATE = 100
MIN_RATE = RATE / 10
# It exits with the number of its arguments, its name among them: mov (%rsp),%edi; mov $60,%eax; syscall.
PROGRAM = Path("/usr/local/bin/e2e-load")
CODE = bytes.fromhex("8b3c24 b83c000000 0f05")
ELF = struct.Struct("<16s HHIQQQIHHHHHH IIQQQQQQ")  # the header, and that of the one segment
BASE = 0x400000
ALL_ARGUMENTS = 50
# Of load alone before and after what is done amid it.
LEAD_SECONDS = 1.5


def main() -> None:
    """Make processes, each with arguments and an exit code of its own; say who they were and how they ended."""
    tag, rate = sys.argv[1], float(sys.argv[2])
    _make_program()
    made: dict[str, int] = {}
    living = number = 0
    began = time.monotonic()
    while not select.select([0], [], [], max(0.0, began + number / rate - time.monotonic()))[0]:
        os.posix_spawn(PROGRAM, [PROGRAM.name, f"{tag}-{number}", *["x"] * (code_of(number) - 2)], {})
        number, living = number + 1, living + 1
        living -= _reap(made, os.WNOHANG)
    seconds = time.monotonic() - began
    while living:
        living -= _reap(made, 0)
    json.dump({"made": made, "seconds": seconds}, sys.stdout)


def code_of(number: int) -> int:
    """What this process of a load exits with."""
    return 2 + number % ALL_ARGUMENTS


def _make_program() -> None:
    """A whole executable: one segment, the code right behind the headers."""
    size = ELF.size + len(CODE)
    header = (b"\x7fELF\x02\x01\x01", 2, 62, 1, BASE + ELF.size, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = (1, 5, 0, BASE, BASE, size, size, 0x1000)
    PROGRAM.unlink(missing_ok=True)
    PROGRAM.write_bytes(ELF.pack(*header, *segment) + CODE)
    PROGRAM.chmod(0o755)


def _reap(made: dict[str, int], flag: int) -> int:
    """Take in one that has ended, if there is one; while it is a zombie, /proc still says when it was started."""
    ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT | flag)
    if ended is None:
        return 0
    stat = Path(f"/proc/{ended.si_pid}/stat").read_bytes()
    started = int(stat.rpartition(b") ")[2].split()[19])
    made[f"{ended.si_pid}-{started}"] = ended.si_status
    os.waitpid(ended.si_pid, 0)
    return 1


class Load:
    """A context, in which such a load runs beside what is done; then `made` has the exit codes by PROCESS_ID."""

    def __init__(self, tag: str, rate: float = RATE) -> None:
        self.tag = tag
        self.made: dict[str, int] = {}
        command = [sys.executable, "-B", "-m", "tests.e2e.guest.load", tag, str(rate)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __enter__(self) -> Self:
        time.sleep(LEAD_SECONDS)
        return self

    def __exit__(self, *_error: object) -> None:
        time.sleep(LEAD_SECONDS)
        output, _nothing = self._process.communicate()
        result = json.loads(output)
        self.made = result["made"]
        told = f"{len(self.made)} processes in {result['seconds']:.1f} s"
        note(f"load {self.tag}: {told}")
        check(f"{self.tag}: it is a load", len(self.made) >= MIN_RATE * result["seconds"], told)

    def missing(self, entries: Iterable[Entry], events: Sequence[str] = ("exec", "exit")) -> list[str]:
        """Which of these events have no entry. Says whether any has two, or is told wrongly."""
        told, wrong = Counter[str](), []
        by_pid = {process.partition("-")[0]: process for process in self.made}
        for entry in entries:
            process, event = by_pid.get(field(entry, "PID")), field(entry, "EVENT")
            if process is not None and event in events:
                told[f"{event} {process}"] += 1
            if event in ("exec", "exit") and self._is_wrong(entry, process):
                wrong.append(entry["MESSAGE"])
        doubled = [event for event, count in told.items() if count > 1]
        check(f"{self.tag}: nothing is told twice", not doubled, doubled)
        check(f"{self.tag}: no entry tells what is another's", not wrong, wrong)
        return [
            f"{event} {process}"
            for process in self.made
            for event in events
            if f"{event} {process}" not in told
        ]

    def _is_wrong(self, entry: Entry, process: str | None) -> bool:
        """Whether it has arguments of this load, and is not about who had them, or tells of another end."""
        _name, found, arguments = str(field(entry, "CMDLINE")).partition(f"{PROGRAM.name} {self.tag}-")
        if not found:
            return False
        if process is None or field(entry, "PROCESS_ID") != process:
            return True
        code = self.made[process]
        return code != code_of(int(arguments.split()[0])) or field(entry, "EXIT_CODE") not in (
            None,
            str(code),
        )


if __name__ == "__main__":
    main()
