# SPDX-License-Identifier: MIT
"""Makes the pictures in the README: of a small build and a few jobs, which it runs, as the daemon has logged them.

What else runs on the machine is not in them, nor is its name: of the entries those alone are taken that are of the
project's processes. Needs root, make, and a C compiler.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
COLUMNS, LINES = 104, 60
SHOWN = 46  # lines of a picture
LIMIT_BYTES = 100 << 10

SOURCES = ("cart", "catalog", "invoice", "main", "order", "payment", "search", "stock", "tax", "user")
MAKEFILE = f"""
objects = {" ".join(f"{name}.o" for name in SOURCES)}
shop: $(objects)
	gcc -o shop $(objects)
%.o: %.c
	gcc -O2 -c $<
check: shop
	./shop
	./shop --old || echo crashed
"""
JOBS = """
make -j2 check
for day in mon tue wed thu fri sat sun; do tar -c *.c | gzip >$day.tgz; done
for host in one two three four five six; do timeout 0.2 sleep 1; done
grep -q price missing.c || true
sh -c 'kill -TERM $$'
sort *.c | uniq -c | sort -n | tail -3
"""


def main() -> int:
    """Make them all; 1 where one could not be made."""
    with tempfile.TemporaryDirectory() as directory:
        entries = [json.dumps(entry) for entry in record(Path(directory))]
        # Its name is in the pictures.
        os.chdir(directory)
        Path("shop.json").write_text("\n".join(entries))
        made = [
            draw("tree", "--file", "shop.json"),
            draw("top", "--file", "shop.json", "-n", "5"),
            run("plot", "--file", "shop.json", "-o", "plot.svg")[1] == 0,
        ]
        (HERE / "plot.svg").write_bytes(Path("plot.svg").read_bytes())
    big = [path.name for path in HERE.glob("*.svg") if path.stat().st_size > LIMIT_BYTES]
    if big:
        print(f"larger than {LIMIT_BYTES} bytes: {', '.join(big)}", file=sys.stderr)
    return int(bool(big) or not all(made))


def record(directory: Path) -> list[dict[str, Any]]:
    """Run the project's jobs, and give the daemon's entries on them."""
    project = directory / "shop"
    project.mkdir()
    for name in SOURCES:
        function = "main(int n, char **words)" if name == "main" else f"{name}(void)"
        body = "return n > 1 ? *(volatile char *)8 : 0;" if name == "main" else "return 0;"
        (project / f"{name}.c").write_text(
            f"#include <stdio.h>\n#include <stdlib.h>\nint {function} {{ {body} }}\n"
        )
    (project / "Makefile").write_text(MAKEFILE)
    (project / "nightly").write_text(JOBS)
    places = {name: str(directory / name) for name in ("RUNTIME_DIRECTORY", "STATE_DIRECTORY")}
    command = [sys.executable, "-m", "procwatchd", "-c", "etc/procwatchd.yaml", "--output", "json"]
    with (
        open(directory / "all.json", "w+b") as written,
        subprocess.Popen(command, cwd=ROOT, env=os.environ | places, stdout=written) as daemon,
    ):
        while daemon.poll() is None and not os.fstat(written.fileno()).st_size:
            time.sleep(0.1)
        with subprocess.Popen(
            ["bash", "nightly"], cwd=project, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as jobs:
            jobs.wait()
        time.sleep(1)
        daemon.send_signal(signal.SIGTERM)
        daemon.wait()
        written.seek(0)
        entries = [json.loads(line) for line in written]
    return [without_names(entry, jobs.pid, str(project)) for entry in entries if is_of(entry, jobs.pid)]


def is_of(entry: dict[str, Any], root: int) -> bool:
    """Whether an entry is of this process or one below it."""
    of_ancestor = re.search(rf"\S\[{root}\]", entry.get("PROCWATCH_ANCESTORS", ""))
    return entry.get("PROCWATCH_PID") == str(root) or of_ancestor is not None


def without_names(entry: dict[str, Any], root: int, project: str) -> dict[str, Any]:
    """The entry without what is of this machine: its name, who started the root, and where the project is."""
    kept = {
        name: value.replace(project, "/srv/shop") for name, value in entry.items() if isinstance(value, str)
    }
    kept["_HOSTNAME"] = "vm"
    if entry["PROCWATCH_PID"] == str(root):
        parents = ("PROCWATCH_PARENT_", "PROCWATCH_PPID", "PROCWATCH_ANCESTORS")
        return {name: value for name, value in kept.items() if not name.startswith(parents)}
    above = re.match(rf".*?\S+\[{root}\]", kept["PROCWATCH_ANCESTORS"])
    return kept | {"PROCWATCH_ANCESTORS": above[0] if above else ""}


def draw(*words: str) -> bool:
    """What a command shows on a terminal, as a picture; whether it could be made."""
    shown, status = run(*words)
    if status:
        print(shown, file=sys.stderr)
        return False
    lines = shown.replace("\r\n", "\n").splitlines()
    with open(os.devnull, "w") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere)
        console.print(Text.from_ansi("\n".join(lines[:SHOWN])), soft_wrap=True)
        picture = console.export_svg(title=f"procwatchctl {words[0]}", unique_id=words[0])
    # The font would be fetched from elsewhere.
    picture = re.sub(r"@font-face \{.*?\}\n?", "", picture, flags=re.DOTALL).replace("Fira Code, ", "")
    (HERE / f"{words[0]}.svg").write_text(picture)
    return True


def run(*words: str) -> tuple[str, int]:
    """Run procwatchctl on a terminal; gives what that has got, and the exit status."""
    leader, follower = pty.openpty()
    fcntl.ioctl(leader, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    command = [sys.executable, "-m", "procwatchd.ctl.main", *words]
    environment = {
        "PYTHONPATH": str(ROOT),
        "PATH": os.environ["PATH"],
        "TERM": "xterm-256color",
        "PAGER": "cat",
        "LANG": "C.UTF-8",
    }
    with subprocess.Popen(
        command, stdin=follower, stdout=follower, stderr=follower, env=environment
    ) as process:
        os.close(follower)
        shown = b""
        try:
            while data := os.read(leader, 1 << 16):
                shown += data
        except OSError:  # nobody has the other end any more
            pass
    os.close(leader)
    return shown.decode(), process.returncode


if __name__ == "__main__":
    sys.exit(main())
