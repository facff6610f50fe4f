# SPDX-License-Identifier: MIT
"""What ends the daemon, each with its exit status.

ProcwatchError
├── KernelError       69  the kernel cannot do it; the text says what is missing
├── AnotherRunsError  75  another daemon holds the runtime directory
├── DeniedError       77  no permission
└── ConfigError       78  bad configuration; carries every problem found
"""

from __future__ import annotations


class ProcwatchError(Exception):
    """Ends the daemon with `exit_status`; the text is for the person who started it."""

    exit_status = 70


class KernelError(ProcwatchError):
    """The kernel, or this place in it (a namespace), cannot do what is needed."""

    exit_status = 69


class AnotherRunsError(ProcwatchError):
    """Another daemon runs with the same runtime directory."""

    exit_status = 75


class DeniedError(ProcwatchError):
    """The kernel could, but not for this user."""

    exit_status = 77


class ConfigError(ProcwatchError):
    """Bad configuration: `problems` has one line each, `FILE:LINE:COLUMN: where: what`."""

    exit_status = 78

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
