# SPDX-License-Identifier: MIT
"""The commands and options of procwatchctl; the completions for shells are made of this.

It imports nothing but argparse and the version, so that a package can be built where nothing else is.
"""

from __future__ import annotations

import argparse
from typing import TypeAlias

from procwatchd import __version__

# Words of the field EVENT for events, as process/fields.py has them.
EVENTS = ("fork", "exec", "exit", "uid", "gid", "sid", "ptrace", "comm", "coredump")

# What shtab is told of an argument: each shell's own way to complete files.
_FILE = {
    "bash": "_shtab_compgen_files",
    "zsh": "_files",
    "tcsh": "f",
    "fish": "(__fish_complete_path (commandline -ct))",
}


def make_parser() -> argparse.ArgumentParser:
    """What understands the command line."""
    parser = argparse.ArgumentParser(
        prog="procwatchctl",
        description="Looks at the rules of procwatchd, and at what it has logged.",
        epilog="See procwatchctl(1), procwatchd.yaml(5), procwatchd.fields(7).",
    )
    parser.add_argument("--version", action="version", version=f"procwatchctl {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_check(commands)
    _add_test(commands)
    _add_explain(commands)
    _add_sigma(commands)
    return parser


# argparse has no other names for these.
_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001
_Place: TypeAlias = "argparse._ActionsContainer"  # noqa: SLF001


def _command(commands: _Commands, name: str, text: str, example: str) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _add_output(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="as JSON, for programs")
    command.add_argument("--no-pager", action="store_true", help="never show the output in a pager")


def _add_source(command: argparse.ArgumentParser) -> None:
    source = command.add_mutually_exclusive_group()
    _file(
        source,
        "-D",
        "--directory",
        metavar="DIR",
        help="the journals in this directory, instead of this machine's",
    )
    _file(
        source,
        "--file",
        metavar="FILE",
        help="JSON lines as of 'journalctl -o json', or a recording, instead of the journal; - is standard input",
    )


def _add_past(command: argparse.ArgumentParser) -> None:
    _add_source(command)
    command.add_argument("--since", metavar="TIME", help="from then on, as journalctl has it: -1h, yesterday")
    command.add_argument("--until", metavar="TIME", help="up to then")


def _file(command: _Place, *names: str, **rest: object) -> None:
    action = command.add_argument(*names, **rest)  # type: ignore[arg-type]
    action.complete = _FILE  # type: ignore[attr-defined]


def _add_check(commands: _Commands) -> None:
    command = _command(
        commands,
        "check",
        "say what is wrong with the configuration, and which rules are of no use",
        "procwatchctl check my.yaml",
    )
    _file(command, "files", nargs="*", metavar="FILE", help="each on its own, instead of what is in /etc")
    _add_output(command)


def _add_test(commands: _Commands) -> None:
    command = _command(
        commands,
        "test",
        "say what would have become of past events under other rules",
        "procwatchctl test my.yaml --since -1h",
    )
    _file(command, "rules", metavar="RULES", help="a configuration file with the rules to try")
    _add_past(command)
    _add_output(command)


def _add_explain(commands: _Commands) -> None:
    command = _command(
        commands,
        "explain",
        "say for one event which rules were tried, and why they hold or not",
        "procwatchctl explain --pid 4711 --event exec",
    )
    _file(command, "-c", "--config", metavar="FILE", help="these rules, instead of those in /etc")
    command.add_argument("--cursor", help="the entry at this cursor of the journal")
    command.add_argument("--pid", type=int, help="of this process")
    command.add_argument("--process-id", metavar="ID", help="of the process with this PROCWATCH_PROCESS_ID")
    command.add_argument("--event", choices=EVENTS, help="of this kind")
    _add_source(command)
    command.set_defaults(since=None, until=None)
    _add_output(command)


def _add_sigma(commands: _Commands) -> None:
    command = commands.add_parser("sigma", help="look at Sigma rules", description="Looks at Sigma rules.")
    what = command.add_subparsers(dest="what", required=True, metavar="WHAT")
    for name, text, example in (
        ("list", "show the Sigma rules that are loaded", "procwatchctl sigma list"),
        ("check", "say which Sigma rules cannot be loaded", "procwatchctl sigma check ~/sigma/rules/linux"),
    ):
        one = _command(what, name, text, example)
        _file(
            one, "paths", nargs="*", metavar="PATH", help="files and directories, instead of those configured"
        )
        _add_output(one)
