# SPDX-License-Identifier: MIT
"""procwatchctl, the command: from its arguments to one of its modules, which alone is loaded."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Callable

from procwatchd.ctl.arguments import make_parser
from procwatchd.ctl.errors import CtlError
from procwatchd.errors import ConfigError
from procwatchd.journal.quote import printable

_LISTS = ("filters", "files", "paths")  # what arguments without an option are

FOUND, USAGE = 1, 2  # exit statuses

# Of commands whose module is not one of their name beside this one.
_MODULES = {
    "check": "rules.check",
    "test": "rules.trial",
    "explain": "rules.explain",
    "sigma": "rules.sigma",
    "top": "top.command",
    "plot": "plot.command",
    "export": "export.command",
    "status": "health.status",
    "doctor": "health.doctor",
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command; gives its exit status: 0 fine, 1 found something, 2 cannot do what was asked."""
    _prepare_standard_streams()
    options = _parse(_with_times(sys.argv[1:] if arguments is None else arguments))
    try:
        status = _command(options)(options)
        sys.stdout.flush()
        return status
    except ConfigError as error:
        print(error, file=sys.stderr)
        return FOUND
    except CtlError as error:
        print(f"procwatchctl: {printable(str(error))}", file=sys.stderr)
        return USAGE
    except BrokenPipeError:
        _write_no_more()
        return 0  # whoever read has seen enough
    except OSError as error:
        _write_no_more()
        print(f"procwatchctl: {printable(str(error))}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        return 130


def _parse(arguments: list[str]) -> argparse.Namespace:
    """What the command line asks for; filters and files may stand on both sides of an option."""
    parser = make_parser()
    options, more = parser.parse_known_args(arguments)
    # Behind an option argparse takes no more of a list that it has begun.
    name = next((name for name in _LISTS if hasattr(options, name)), "")
    if more and (not name or any(word.startswith("-") for word in more)):
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    if more:
        setattr(options, name, [*getattr(options, name), *more])
    return options


def _prepare_standard_streams() -> None:
    """Have them all, for what was closed is None; and where the locale has no character, its number stands for it."""
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "r+"))  # noqa: SIM115  for as long as the command runs
        elif name != "stdin" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _write_no_more() -> None:
    """What is still in buffers goes nowhere when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _with_times(arguments: list[str]) -> list[str]:
    """`--since -1h` as one argument: argparse would take the time for an option."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] in ("--since", "--until", "-S", "-U"):
            joined[-1] += f"={argument}" if joined[-1].startswith("--") else argument
        else:
            joined.append(argument)
    return joined


def _command(options: argparse.Namespace) -> Callable[[argparse.Namespace], int]:
    """The function that does it, which has the command's name."""
    module = importlib.import_module(f"procwatchd.ctl.{_MODULES.get(options.command, options.command)}")
    found: Callable[[argparse.Namespace], int] = getattr(module, options.command)
    return found


if __name__ == "__main__":
    sys.exit(main())
