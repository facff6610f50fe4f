# SPDX-License-Identifier: MIT
"""Whether the kernel still tells us: with a connector of the test's own."""

from __future__ import annotations

import pytest

from procwatchd.kernel import heartbeat as heartbeat_module
from procwatchd.kernel import wire
from procwatchd.kernel.connector import Connector
from procwatchd.kernel.heartbeat import INTERVAL_SECONDS, REFUSALS, RETRY_SECONDS, Blindness, Heartbeat
from tests.unit.test_clock import SECOND, FakeTime

INTERVAL_NS, RETRY_NS = int(INTERVAL_SECONDS * SECOND), int(RETRY_SECONDS * SECOND)


class FakeConnector(Connector):
    """Notes how it is asked: in the way that changes nothing, or in the one that wins back."""

    def __init__(self) -> None:
        self.drops = 0
        self.asked_how: list[str] = []
        self.refuses = False
        self.number = 0xFFFFFFF0

    def ask(self) -> int:
        return self._note("ask")

    def win_back(self) -> int:
        return self._note("win back")

    def kernel_drops(self) -> int:
        return self.drops

    def _note(self, how: str) -> int:
        self.asked_how.append(how)
        if self.refuses:
            raise OSError(105, "no buffer space")
        self.number = (self.number + 1) % (1 << 32)
        return self.number


class Scene:
    """A heartbeat, and the listener's part in it."""

    def __init__(self, time: FakeTime) -> None:
        self.time = time
        self.connector = FakeConnector()
        self.told: list[Blindness] = []
        self.heartbeat = Heartbeat(self.connector, self.told.append)

    def beat(self, after_ns: int = 0) -> bool:
        """Let time pass; whether it asks then."""
        self.time.now_ns += after_ns
        count = len(self.connector.asked_how)
        self.heartbeat.beat()
        return len(self.connector.asked_how) > count

    def answer(self) -> None:
        """The ACK comes, amid others."""
        self.heartbeat.look(events(self.connector.number))

    def conclude(self, last_event_ns: int = 0) -> None:
        self.heartbeat.conclude(last_event_ns)

    def be_blind(self) -> None:
        assert self.beat(INTERVAL_NS)
        self.conclude()
        assert len(self.told) == 1


def events(ack: int) -> bytes:
    """An event whose words look like the ACK's number, and the ACK."""
    event = wire.encode_event(wire.FORK, ack, ack, ack, ack, seq=ack, ack=ack)
    return event + wire.encode_event(wire.NONE, ack=ack)


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    time = FakeTime()
    monkeypatch.setattr(heartbeat_module, "time", time)
    return Scene(time)


def test_it_asks_at_intervals(scene: Scene) -> None:
    assert not scene.beat()
    assert not scene.beat(INTERVAL_NS - SECOND)
    assert scene.beat(SECOND)
    assert not scene.heartbeat.is_blind
    for _ in range(3):
        scene.answer()
        assert not scene.heartbeat.is_waiting
        assert not scene.beat(INTERVAL_NS - SECOND)
        assert scene.beat(SECOND)
    assert scene.told == []
    assert set(scene.connector.asked_how) == {"ask"}


def test_it_does_not_ask_again_while_it_waits(scene: Scene) -> None:
    assert scene.beat(INTERVAL_NS)
    assert scene.heartbeat.is_waiting
    assert not scene.beat(INTERVAL_NS)


def test_only_its_own_ack_counts(scene: Scene) -> None:
    scene.beat(INTERVAL_NS)
    own = scene.connector.number
    scene.heartbeat.look(events(own + 1) + events(own - 1))
    scene.heartbeat.look(wire.encode_event(wire.EXIT, own, own, own, ack=own))
    scene.heartbeat.look(b"")
    assert scene.heartbeat.is_waiting
    scene.answer()
    assert not scene.heartbeat.is_waiting


def test_without_a_question_there_is_nothing_to_conclude(scene: Scene) -> None:
    scene.conclude()
    scene.answer()
    assert not scene.beat()
    assert scene.told == []


def test_an_ack_that_is_missing_is_told_once(scene: Scene) -> None:
    created_ns = scene.time.now_ns
    assert scene.beat(INTERVAL_NS)
    scene.conclude()
    assert scene.told == [Blindness(created_ns)]
    assert scene.heartbeat.is_blind
    assert not scene.heartbeat.is_waiting
    for _ in range(5):
        scene.beat(RETRY_NS)
        scene.conclude()
    assert scene.told == [Blindness(created_ns)]


def test_blind_since_the_last_that_was_seen(scene: Scene) -> None:
    assert scene.beat(INTERVAL_NS)
    asked_ns = scene.time.now_ns
    scene.time.now_ns += 1000
    scene.answer()
    # That the events were told until the question was asked, the answer proves.
    scene.beat(INTERVAL_NS)
    scene.conclude(asked_ns - 1)
    assert scene.told == [Blindness(asked_ns)]


def test_blind_since_the_last_event(scene: Scene) -> None:
    event_ns = scene.time.now_ns + SECOND
    scene.beat(INTERVAL_NS)
    scene.conclude(event_ns)
    assert scene.told == [Blindness(event_ns)]


def test_an_ack_that_was_dropped_is_no_blindness(scene: Scene) -> None:
    scene.connector.drops = 7
    assert scene.beat(INTERVAL_NS)
    scene.connector.drops = 8
    scene.conclude()
    assert scene.told == []
    # Asked again at once, and what was dropped before is no excuse any more.
    assert scene.beat()
    scene.conclude()
    assert len(scene.told) == 1
    assert scene.connector.asked_how == ["ask", "ask"]


def test_it_is_won_back(scene: Scene) -> None:
    scene.be_blind()
    since_ns = scene.told[0].since_ns
    # At once, and again at once: somebody may go on to break it.
    assert scene.beat()
    scene.conclude()
    assert scene.beat()
    asked_ns = scene.time.now_ns
    scene.time.now_ns += 1000
    scene.answer()
    assert scene.told[1:] == [Blindness(since_ns, asked_ns)]
    assert not scene.heartbeat.is_blind
    assert scene.connector.asked_how == ["ask", "win back", "win back"]
    # From now on all is as before.
    assert not scene.beat(INTERVAL_NS - SECOND)
    assert scene.beat(SECOND)
    scene.answer()
    assert scene.connector.asked_how[-1] == "ask"
    assert len(scene.told) == 2


def test_a_second_blindness_is_told_again(scene: Scene) -> None:
    scene.be_blind()
    scene.beat()
    seen_ns = scene.time.now_ns
    scene.answer()
    scene.beat(INTERVAL_NS)
    scene.conclude()
    assert scene.told[2:] == [Blindness(seen_ns)]


def test_drops_while_it_is_blind_are_no_end_of_it(scene: Scene) -> None:
    scene.be_blind()
    scene.beat()
    scene.connector.drops += 1
    scene.conclude()
    assert len(scene.told) == 1
    assert scene.beat()
    assert scene.connector.asked_how[-1] == "win back"


def test_a_question_that_cannot_be_asked_is_one_without_an_answer(scene: Scene) -> None:
    scene.connector.refuses = True
    scene.beat(INTERVAL_NS)
    # Once, it may be for want of memory.
    assert not scene.heartbeat.is_waiting
    for _ in range(REFUSALS - 1):
        scene.beat(RETRY_NS + 1000)
    assert scene.heartbeat.is_waiting
    scene.heartbeat.look(events(5))
    scene.conclude()
    assert len(scene.told) == 1
    scene.beat(RETRY_NS + 1000)
    scene.conclude()
    scene.connector.refuses = False
    scene.beat(RETRY_NS + 1000)
    scene.answer()
    assert len(scene.told) == 2


def test_in_doubt_it_asks_at_once(scene: Scene) -> None:
    scene.heartbeat.hurry()
    assert scene.heartbeat.patience(1.0) == 0.0
    assert scene.beat()
    scene.answer()
    assert not scene.beat(SECOND)


def test_patience(scene: Scene) -> None:
    assert scene.heartbeat.patience(1.0) == 1.0
    assert scene.heartbeat.patience(100.0) == INTERVAL_SECONDS
    scene.time.now_ns += INTERVAL_NS + SECOND
    assert scene.heartbeat.patience(1.0) == 0.0
