# SPDX-License-Identifier: MIT
"""What setuptools does for the package beside copying it: the recorder is compiled, for the kernel's BPF machine.

Without clang, or libbpf's headers, the package is built all the same: the daemon then reads arguments from /proc alone,
and says so. A source that does not compile is an error.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

SOURCE = Path("procwatchd/kernel/recorder.bpf.c")
# No path of the machine it was built on is in the object: built twice it is the same.
CLANG = ("clang", "-target", "bpf", "-O2", "-g", "-Wall", "-fdebug-compilation-dir=.")
HEADER = "bpf/bpf_helpers.h"
EMPTY = ("-x", "c", "/dev/null", "-o", "/dev/null")
# What belongs to the sources beside the package.
MORE = ("packaging", "etc", "tests")
MORE_FILES = ("Makefile", "HACKING.md", "NEWS.md", "LICENSE")


class BuildPy(build_py):  # type: ignore[misc]  # setuptools has no types
    """Compiles the recorder to where the package is built; in place where it is installed editable."""

    def run(self) -> None:
        """Build, as setuptools has it."""
        super().run()
        directory = Path() if self.editable_mode else Path(self.build_lib)
        compile_recorder(directory / SOURCE.with_suffix(".o"))


class Sdist(sdist):  # type: ignore[misc]
    """Has all that it takes to build, test and install it."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        """Put in what setuptools does not look for."""
        more = [path for directory in MORE for path in Path(directory).rglob("*") if path.is_file()]
        wanted = {str(path) for path in more if path.suffix not in (".pyc", ".o")}
        wanted.update(name for name in MORE_FILES if Path(name).exists())
        super().make_release_tree(base_dir, sorted(wanted.union(files)))


def compile_recorder(target: Path) -> None:
    """Make the object, or see to it that there is none, and say why."""
    target.unlink(missing_ok=True)
    if why := _missing():
        print(f"the recorder is not built: {why}", file=sys.stderr)
        return
    subprocess.run([*CLANG, "-c", str(SOURCE), "-o", str(target)], check=True)


def _missing() -> str:
    """What of the tools is not there; "" where all are."""
    try:
        if subprocess.run([*CLANG, "-c", *EMPTY], capture_output=True, check=False).returncode:
            return "clang does not compile for bpf"
        if subprocess.run(
            [*CLANG, "-E", "-include", HEADER, *EMPTY], capture_output=True, check=False
        ).returncode:
            return f"no {HEADER}, which libbpf-dev has"
    except OSError as error:
        return f"no clang ({error.strerror})"
    return ""
