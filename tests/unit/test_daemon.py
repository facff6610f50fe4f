# SPDX-License-Identifier: MIT
"""What the main thread does while a configuration is read."""

from __future__ import annotations

import argparse
import signal
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
    running = True

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
        _loading=None,
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


@pytest.fixture
def never(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A file system that hangs, until this is set."""
    may_end = threading.Event()

    def load_config(_path: str) -> None:
        assert may_end.wait(60)
        raise ConfigError(["file: bad"])

    monkeypatch.setattr(daemon, "load_config", load_config)
    yield may_end
    may_end.set()


REFUSED = "STATUS=not loaded, keeping the previous rules: "


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.usefixtures("never")
def test_an_end_does_not_wait_for_a_configuration(
    world: World, told: list[str], number: signal.Signals
) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        signal.pthread_kill(threading.get_ident(), number)
        running(world)._reload()
        # It is there for the turn that comes.
        assert signal.sigtimedwait({number}, 0) is not None
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert told[-1].splitlines() == ["READY=1", f"{REFUSED}procwatchd is about to end"]


@pytest.mark.parametrize("who", ["listener", "worker"])
@pytest.mark.usefixtures("never")
def test_nor_does_who_can_do_no_work(world: World, told: list[str], who: str) -> None:
    of = running(world)
    if who == "worker":
        world.worker.stop()
    else:
        of._listener.running = False
    of._reload()
    assert told[-1].splitlines() == ["READY=1", f"{REFUSED}procwatchd is about to end"]


def test_a_load_that_hangs_is_given_up(
    world: World, told: list[str], never: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "LOADING_MOST_SECONDS", 0.05)
    of = running(world)
    of._reload()
    assert told[-1].splitlines() == ["READY=1", f"{REFUSED}it took more than 0.05 seconds"]
    # One thread hangs, and not one more for each that asks.
    threads = threading.active_count()
    of._reload()
    assert threading.active_count() == threads
    assert told[-1].splitlines() == ["READY=1", f"{REFUSED}the load before this one has not ended yet"]
    never.set()
    assert of._loading is not None
    assert isinstance(of._loading.exception(60), ConfigError)
    of._reload()
    assert told[-1].splitlines()[1].startswith("STATUS=bad configuration")
    world.worker.stop()
    texts = [str(entry.fields["MESSAGE"]) for entry in world.writer.entries]
    assert "reload: not loaded, keeping the previous one: it took more than 0.05 seconds" in texts
