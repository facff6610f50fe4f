# SPDX-License-Identifier: MIT
"""What is installed for shells, in these shells: a person types, and the rest of the word appears."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 30.0

# What is typed before the tab key, and what must be there then.
TYPED = {
    "procwatchctl tr": "procwatchctl tree",
    "procwatchctl sigma li": "procwatchctl sigma list",
    "procwatchctl explain --event cor": "procwatchctl explain --event coredump",
    "procwatchctl export --format perf": "procwatchctl export --format perfetto",
    "procwatchctl check /etc/os-rel": "procwatchctl check /etc/os-release",
}
PLACES = {
    "bash": "usr/share/bash-completion/completions",
    "zsh": "usr/share/zsh/site-functions",
    "fish": "usr/share/fish/vendor_completions.d",
}
# How each is started without anything of the machine's, and told of what was installed.
SHELLS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], "source {place}/procwatchctl"),
    "zsh": (["zsh", "-f", "-i"], "fpath=({place} $fpath); autoload -Uz compinit; compinit -u -D"),
}
# Escapes of terminals, and how zsh rubs out.
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|.\x08|\x07")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    destination = tmp_path_factory.mktemp("completions")
    command = [
        "make",
        "--silent",
        "install-completions",
        f"DESTDIR={destination}",
        f"PYTHON={sys.executable}",
    ]
    subprocess.run(command, cwd=ROOT, check=True)
    return destination


class Typist:
    """Somebody at a terminal, in whose shell it is."""

    def __init__(self, terminal: int) -> None:
        self._terminal = terminal
        self._shown = ""

    def type(self, text: str) -> None:
        self._shown = ""
        os.write(self._terminal, text.encode())

    def sees(self, wanted: str) -> bool:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while wanted not in _CONTROL.sub("", self._shown):
            if not select.select([self._terminal], [], [], max(0.0, deadline - time.monotonic()))[0]:
                return False
            self._shown += os.read(self._terminal, 4096).decode(errors="replace")
        return True


@contextmanager
def shell(words: list[str]) -> Iterator[Typist]:
    leader, follower = pty.openpty()
    environment = {"PATH": os.environ["PATH"], "TERM": "dumb", "PS1": "ready> ", "HOME": "/"}
    with subprocess.Popen(
        words,
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env=environment,
        start_new_session=True,
        cwd="/",
    ) as process:
        os.close(follower)
        try:
            yield Typist(leader)
        finally:
            process.kill()
            os.close(leader)


@pytest.mark.parametrize("name", SHELLS)
def test_a_shell_completes_what_is_typed(name: str, installed: Path) -> None:
    words, prepare = SHELLS[name]
    with shell(words) as person:
        person.type(prepare.format(place=installed / PLACES[name]) + "; echo prepa''red\n")
        assert person.sees("prepared")
        for typed, wanted in TYPED.items():
            person.type(f"{typed}\t")
            assert person.sees(wanted), (typed, person._shown)
            person.type("\x15")


@pytest.mark.parametrize("typed", TYPED)
def test_fish_offers_the_word(typed: str, installed: Path) -> None:
    """It tells by itself what it would complete to."""
    script = installed / PLACES["fish"] / "procwatchctl.fish"
    command = ["fish", "--no-config", "-c", f"source {script}; complete -C '{typed}'"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd="/")
    assert done.stderr == ""
    offered = [line.split("\t")[0] for line in done.stdout.splitlines()]
    assert TYPED[typed].rpartition(" ")[2] in offered


def test_fish_offers_what_belongs_to_a_command_alone(installed: Path) -> None:
    script = installed / PLACES["fish"] / "procwatchctl.fish"
    for typed, wanted, unwanted in (
        ("procwatchctl tree --", "--unit", "--colour"),
        ("procwatchctl tree tr", "", "tree"),
        ("procwatchctl --", "--version", "--unit"),
        ("procwatchctl sigma check --", "--json", "--version"),
    ):
        command = ["fish", "--no-config", "-c", f"source {script}; complete -C '{typed}'"]
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd="/")
        offered = [line.split("\t")[0] for line in done.stdout.splitlines()]
        assert not wanted or wanted in offered
        assert unwanted not in offered
