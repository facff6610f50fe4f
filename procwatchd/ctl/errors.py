# SPDX-License-Identifier: MIT
"""What ends a command of procwatchctl."""

from __future__ import annotations


class CtlError(Exception):
    """The command cannot do what was asked; the text is for the person who asked."""
