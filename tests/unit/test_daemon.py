# SPDX-License-Identifier: MIT
"""What the main thread does while a configuration is read."""

from __future__ import annotations

import argparse
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from procwatchd import daemon
from procwatchd.daemon import Daemon
from procwatchd.errors import ConfigError
from tests.unit.test_worker import World


class Listener:
    """One that is never stuck."""

    progress = 0

    def poke(self) -> None:
        self.progress += 1


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    found = World(tmp_path)
    found.worker.start(lambda: None)
    yield found
    found.worker.stop()


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    monkeypatch.setattr(daemon, "notify", found.append)
    monkeypatch.setattr(daemon, "LOADING_SECONDS", 0.01)
    return found


def running(world: World) -> Daemon:
    """A daemon without the kernel."""
    of = object.__new__(Daemon)
    of.__dict__.update(
        _options=argparse.Namespace(config=str(world.directory / "procwatchd.yaml")),
        _worker=world.worker,
        _writer=world.writer,
        _listener=Listener(),
        _progress=(0, 0),
        _problem="",
    )
    return of


def test_an_error_of_ours_in_a_reload_costs_nothing(
    world: World, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_path: str) -> None:
        raise RuntimeError("odd\nthing")

    monkeypatch.setattr(daemon, "load_config", fails)
    before = world.worker.config
    running(world)._reload()
    world.worker.stop()
    shown = "STATUS=internal error, keeping the previous rules: RuntimeError('odd\\nthing')"
    assert told[-1].splitlines() == ["READY=1", shown]
    (entry,) = [entry for entry in world.writer.entries if entry.fields["PROCWATCH_EVENT"] == "reload"]
    assert str(entry.fields["MESSAGE"]).startswith(
        "reload: internal error, keeping the previous one: Traceback"
    )
    assert world.worker.config is before


def test_the_watchdog_is_told_while_a_configuration_is_read(
    world: World, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    may_end = threading.Event()

    def notify(message: str) -> None:
        told.append(message)
        if message.startswith("WATCHDOG=1"):
            may_end.set()

    def slow(_path: str) -> None:
        assert may_end.wait(60)
        raise ConfigError(["file: bad"])

    monkeypatch.setattr(daemon, "notify", notify)
    monkeypatch.setattr(daemon, "load_config", slow)
    running(world)._reload()
    assert may_end.is_set()
    shown = "STATUS=bad configuration, keeping the previous rules: file: bad"
    assert told[-1].splitlines() == ["READY=1", shown]
