# SPDX-License-Identifier: MIT
"""procwatchctl, the command: from its arguments to one of its modules, which alone is loaded."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable

from procwatchd.ctl.arguments import make_parser
from procwatchd.ctl.errors import CtlError
from procwatchd.errors import ConfigError
from procwatchd.journal.quote import printable

FOUND, USAGE = 1, 2  # exit statuses


def main(arguments: list[str] | None = None) -> int:
    """Run the command; gives its exit status: 0 fine, 1 found something, 2 cannot do what was asked."""
    options = make_parser().parse_args(_with_times(sys.argv[1:] if arguments is None else arguments))
    try:
        return _command(options)(options)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return FOUND
    except CtlError as error:
        print(f"procwatchctl: {printable(str(error))}", file=sys.stderr)
        return USAGE
    except BrokenPipeError:
        # Whoever read has seen enough; nothing more is to be written at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except KeyboardInterrupt:
        return 130


def _with_times(arguments: list[str]) -> list[str]:
    """`--since -1h` as one argument: argparse would take the time for an option."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] in ("--since", "--until"):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _command(options: argparse.Namespace) -> Callable[[argparse.Namespace], int]:
    """The function that does it."""
    if options.command == "check":
        from procwatchd.ctl.check import check

        return check
    if options.command == "test":
        from procwatchd.ctl.trial import test

        return test
    if options.command == "explain":
        from procwatchd.ctl.explain import explain

        return explain
    from procwatchd.ctl.sigma import sigma

    return sigma


if __name__ == "__main__":
    sys.exit(main())
