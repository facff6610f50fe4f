# SPDX-License-Identifier: MIT
"""What fish completes: written from the parser to standard output, when procwatchctl is installed.

shtab makes the others; it has nothing for fish in the versions that distributions have.

Facts:
- `complete -n` is a condition, `-f` leaves files out and `-F` brings them back, `-r` is an option with a value, `-a` a
  list of them, and `-x` is `-r -f` [complete(1)].
- In single quotes a backslash and a single quote are escaped [fish-language(7)].
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from procwatchd.ctl.arguments import make_parser

# Commands are the first words: there are no options with a value before them.
FUNCTIONS = """\
# Whether the words so far begin with these.
function __procwatchctl_has
    set -l words (commandline -opc)
    set -e words[1]
    string match -q -- "$argv *" "$words "
end

# Whether they are these.
function __procwatchctl_is
    set -l words (commandline -opc)
    set -e words[1]
    test "$words" = "$argv"
end
"""


def completions(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Lines of fish's script for this parser's program."""
    yield "# fish completions for procwatchctl"
    yield FUNCTIONS
    yield f"complete -c {parser.prog} -f"
    yield from _of_command(parser, parser.prog, ())


def _of_command(parser: argparse.ArgumentParser, program: str, words: tuple[str, ...]) -> Iterator[str]:
    """Those of a command, whose words these are, and of what is below it."""
    for action in parser._actions:  # noqa: SLF001  argparse has no other way to what there is
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            helps = {one.dest: one.help or "" for one in action._choices_actions}  # noqa: SLF001
            for name, command in action.choices.items():
                yield _line(program, _when("is", words), "-a", name, "-d", _quoted(helps.get(name, "")))
                yield from _of_command(command, program, (*words, name))
        elif action.option_strings:
            yield _line(program, _when("has" if words else "is", words), *_option(action))
        elif hasattr(action, "complete"):
            yield _line(program, _when("has", words), "-F")


def _option(action: argparse.Action) -> list[str]:
    names = [
        f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in action.option_strings
    ]
    words = [*names, "-d", _quoted(action.help or "")]
    if action.choices:
        return [*words, "-x", "-a", _quoted(" ".join(map(str, action.choices)))]
    if hasattr(action, "complete"):
        return [*words, "-r", "-F"]
    return words if action.nargs == 0 else [*words, "-x"]


def _when(function: str, words: tuple[str, ...]) -> str:
    return f"-n {_quoted(' '.join((f'__procwatchctl_{function}', *words)))}"


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _line(program: str, *words: str) -> str:
    return " ".join(["complete", "-c", program, *words])


if __name__ == "__main__":
    print("\n".join(completions(make_parser())))
