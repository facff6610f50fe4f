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
        description="Looks at what procwatchd has logged, at its rules, and at its health.",
        epilog="See procwatchctl(1), procwatchd.yaml(5), procwatchd.fields(7).",
    )
    parser.add_argument("--version", action="version", version=f"procwatchctl {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_check(commands)
    _add_test(commands)
    _add_explain(commands)
    _add_sigma(commands)
    _add_log(commands)
    _add_tree(commands)
    _add_top(commands)
    _add_plot(commands)
    _add_export(commands)
    _add_status(commands)
    _add_doctor(commands)
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


def _add_source(command: argparse.ArgumentParser, *, has_recordings: bool = False) -> None:
    command.add_argument(
        "-m", "--merge", action="store_true", help="other machines' entries as well, where they are here"
    )
    source = command.add_mutually_exclusive_group()
    recording = ", or a recording," if has_recordings else ""
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
        help=f"JSON lines as of 'journalctl -o json'{recording} instead of the journal; - is standard input",
    )


def _add_past(command: argparse.ArgumentParser, *, has_recordings: bool = False) -> None:
    _add_source(command, has_recordings=has_recordings)
    command.add_argument(
        "-S", "--since", metavar="TIME", help="from then on, as journalctl has it: -1h, yesterday"
    )
    command.add_argument("-U", "--until", metavar="TIME", help="up to then")


def _add_filters(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "filters",
        nargs="*",
        metavar="KEY=VALUE",
        help="only entries with this, as rules have it: exe=*/curl, 'exit-code|gt=0', 'user!=root'",
    )


def _add_follow(command: argparse.ArgumentParser, text: str) -> None:
    command.add_argument("-f", "--follow", action="store_true", help=text)


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
    _add_past(command, has_recordings=True)
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
    command.add_argument("--pid", type=_count, help="of this process")
    command.add_argument("--process-id", metavar="ID", help="of the process with this PROCWATCH_PROCESS_ID")
    command.add_argument("--event", choices=EVENTS, help="of this kind")
    _add_source(command, has_recordings=True)
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


def _add_log(commands: _Commands) -> None:
    command = _command(commands, "log", "show entries", "procwatchctl log --since -1h exe=*/curl")
    _add_follow(command, "go on with those that come, after the last few")
    command.add_argument("-n", "--lines", type=_count, metavar="N", help="the last N alone")
    command.add_argument("--tree", action="store_true", help="indent them by descent")
    _add_process(command, "a process's life: its entries, and those of its ancestors")
    _add_filters(command)
    _add_past(command)
    _add_output(command)


def _add_tree(commands: _Commands) -> None:
    command = _command(
        commands, "tree", "show who started what, and what became of it", "procwatchctl tree --since -10min"
    )
    _add_roots(command)
    command.add_argument(
        "-l", "--all", action="store_true", help="each process on its own: nothing is folded"
    )
    _add_filters(command)
    _add_past(command)
    _add_output(command)


def _add_process(command: argparse.ArgumentParser, text: str) -> None:
    process = command.add_mutually_exclusive_group()
    process.add_argument("--pid", type=_count, help=text)
    process.add_argument("--process-id", metavar="ID", help="the same by PROCWATCH_PROCESS_ID")


def _add_roots(command: argparse.ArgumentParser) -> None:
    """Whose processes, and those below them."""
    _add_process(command, "this process, and those below it")
    command.add_argument("--unit", help="those of this unit, and those below them")
    command.add_argument("--session", metavar="ID", help="those of this login session, and those below them")


def _add_top(commands: _Commands) -> None:
    command = _command(
        commands, "top", "show what ran most, took most, and failed most", "procwatchctl top --since today"
    )
    _add_follow(command, "go on, and show it anew every few seconds")
    command.add_argument(
        "-n", "--lines", type=_count, default=10, metavar="N", help="lines of each table (10)"
    )
    _add_filters(command)
    _add_past(command)
    _add_output(command)


def _add_plot(commands: _Commands) -> None:
    command = _command(
        commands,
        "plot",
        "draw the lives of processes over time, as SVG",
        "procwatchctl plot -S -5min -o lives.svg",
    )
    _add_roots(command)
    command.add_argument(
        "--colour", choices=("status", "unit", "user"), default="status", help="what gives the colour"
    )
    _file(command, "-o", "--output", metavar="FILE", help="where to, instead of standard output")
    _add_filters(command)
    _add_past(command)


def _add_export(commands: _Commands) -> None:
    command = _command(
        commands, "export", "give entries in other programs' forms", "procwatchctl export --format ecs -S -1d"
    )
    command.add_argument(
        "--format",
        choices=("json", "ecs", "ocsf", "perfetto", "csv"),
        default="json",
        help="the form (json): ecs and ocsf for stores of logs, perfetto for ui.perfetto.dev, csv for tables",
    )
    _add_follow(command, "go on with those that come")
    _file(command, "-o", "--output", metavar="FILE", help="where to, instead of standard output")
    _add_filters(command)
    _add_past(command)


def _add_status(commands: _Commands) -> None:
    command = _command(commands, "status", "show what the daemon counts", "procwatchctl status -f")
    _add_follow(command, "go on, and show it anew every few seconds")
    _file(
        command,
        "--metrics",
        metavar="FILE",
        help="this file with its metrics, instead of that in /run/procwatchd",
    )
    _add_output(command)


def _add_doctor(commands: _Commands) -> None:
    command = _command(
        commands, "doctor", "say whether this machine is able, and the daemon healthy", "procwatchctl doctor"
    )
    command.add_argument(
        "--strict", action="store_true", help="exit status 1 for a WARN as well, not for a FAIL alone"
    )
    _add_output(command)


def _count(text: str) -> int:
    found = int(text) if text.isdecimal() and len(text) < 19 else 0
    if found < 1:
        raise argparse.ArgumentTypeError("it is a number from 1 on")
    return found
