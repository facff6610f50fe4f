# SPDX-License-Identifier: MIT
"""What setuptools does for the package beside copying it: the recorder is compiled, for the kernel's BPF machine.

Without clang, or libbpf's headers, the package is built all the same: the daemon then reads arguments from /proc alone,
and says so.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from setuptools.command.build_py import build_py

SOURCE = Path("procwatchd/kernel/recorder.bpf.c")
# No path of the machine it was built on is in the object: built twice it is the same.
CLANG = ("clang", "-target", "bpf", "-O2", "-g", "-Wall", "-Werror", "-fdebug-compilation-dir=.", "-c")


class BuildPy(build_py):  # type: ignore[misc]  # setuptools has no types
    """Compiles the recorder to where the package is built; in place where it is installed editable."""

    def run(self) -> None:
        """Build, as setuptools has it."""
        super().run()
        directory = Path() if self.editable_mode else Path(self.build_lib)
        compile_recorder(directory / SOURCE.with_suffix(".o"))


def compile_recorder(target: Path) -> None:
    """Make the object, or see to it that there is none, and say why."""
    target.unlink(missing_ok=True)
    try:
        subprocess.run([*CLANG, str(SOURCE), "-o", str(target)], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        target.unlink(missing_ok=True)
        print(f"the recorder is not built, as it takes clang and libbpf-dev: {error}", file=sys.stderr)
