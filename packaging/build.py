# SPDX-License-Identifier: MIT
"""What setuptools does for the package beside copying it: the recorder is compiled, for the kernel's BPF machine.

Without clang, or libbpf's headers, the package is built all the same: the daemon then reads arguments from /proc alone,
and says so. A source that does not compile is an error.

Of the same sources, with the same tools and SOURCE_DATE_EPOCH, what is made is the same, byte for byte.
"""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

SOURCE = Path("procwatchd/kernel/recorder.bpf.c")
# A package serves machines of either byte order: each takes its own object, by the names that Python has for them.
TARGETS = {"little": "bpfel", "big": "bpfeb"}
# No path of the machine it was built on is in the object: built twice it is the same.
CLANG = ("clang", "-O2", "-g", "-Wall", "-fdebug-compilation-dir=.")
HEADER = "bpf/bpf_helpers.h"
EMPTY = ("-x", "c", "/dev/null", "-o", "/dev/null")
# What belongs to the sources beside the package.
MORE = ("packaging", "debian", "etc", "tests")
MORE_FILES = ("Makefile", "HACKING.md", "NEWS.md", "LICENSE")
# What does not: it is made from them.
MADE = (".pyc", ".o")


class BuildPy(build_py):  # type: ignore[misc]  # setuptools has no types
    """Compiles the recorder to where the package is built; in place where it is installed editable."""

    def run(self) -> None:
        """Build, as setuptools has it."""
        super().run()
        directory = Path() if self.editable_mode else Path(self.build_lib)
        compile_recorder((directory / SOURCE).parent)


class Sdist(sdist):  # type: ignore[misc]
    """Has all that it takes to build, test and install it."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        """Put in what setuptools does not look for."""
        more = [path for directory in MORE for path in Path(directory).rglob("*") if path.is_file()]
        wanted = {*files, *map(str, more), *(name for name in MORE_FILES if Path(name).exists())}
        super().make_release_tree(base_dir, sorted(name for name in wanted if not name.endswith(MADE)))

    def make_archive(self, base_name: str, _format: str, *, base_dir: str, **_options: object) -> str:
        """Pack the tree, with nothing in it of who does that, and when."""
        when = int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))
        path = f"{base_name}.tar.gz"
        with (
            open(path, "wb") as file,
            gzip.GzipFile("", "wb", fileobj=file, mtime=when) as packed,
            tarfile.open(fileobj=packed, mode="w") as archive,
        ):
            archive.add(base_dir, filter=lambda entry: _nobodys(entry, when))
        return path


def _nobodys(entry: tarfile.TarInfo, when: int) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mtime = when
    entry.mode = 0o755 if entry.mode & 0o100 else 0o644
    return entry


def compile_recorder(directory: Path) -> None:
    """Make the objects there, or see to it that there are none, and say why."""
    for old in directory.glob("recorder.*.o"):
        old.unlink()
    if why := _missing():
        print(f"the recorder is not built: {why}", file=sys.stderr)
        return
    for byte_order, target in TARGETS.items():
        made = directory / f"recorder.{byte_order}.bpf.o"
        subprocess.run([*CLANG, "-target", target, "-c", str(SOURCE), "-o", str(made)], check=True)


def _missing() -> str:
    """What of the tools is not there; "" where all are."""
    try:
        if not _works("-c"):
            return "clang does not compile for bpf"
        if not _works("-E", "-include", HEADER):
            return f"no {HEADER}, which libbpf-dev has"
    except OSError as error:
        return f"no clang ({error.strerror})"
    return ""


def _works(*arguments: str) -> bool:
    command = [*CLANG, "-target", "bpf", *arguments, *EMPTY]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
