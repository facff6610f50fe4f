# SPDX-License-Identifier: MIT
"""Users are answered at once, whatever the user database does meanwhile."""

from __future__ import annotations

import pwd
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from procwatchd.process import users as module
from procwatchd.process.users import Account, Users, lookup_account

PATIENCE_SECONDS = 10.0
PASSWD = b"root:x:0:0:root:/root:/bin/bash\nalice:x:1000:1001::/home/alice:/bin/sh\n"


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """The time it was set to."""
        return self.now


class Database:
    """A user database that may hang, fail and change; `asked` has the uids looked up."""

    def __init__(self) -> None:
        self.accounts: dict[int, Account] = {}
        self.asked: list[int] = []
        self.error: Exception | None = None
        self.answering = threading.Event()
        self.answering.set()
        self.entered = threading.Event()

    def lookup(self, uid: int) -> Account | None:
        """Answers, when it does."""
        self.entered.set()
        assert self.answering.wait(PATIENCE_SECONDS)
        self.asked.append(uid)
        if self.error is not None:
            raise self.error
        return self.accounts.get(uid)


def settle(users: Users) -> None:
    """Everything asked for so far is answered and kept, and the thread gone; the next to ask starts one."""
    if users._thread is not None:
        users._queue.put(None)
        users._thread.join(PATIENCE_SECONDS)
        assert not users._thread.is_alive()
        users._thread = None


Make = Callable[..., Users]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def database() -> Database:
    return Database()


@pytest.fixture
def make(tmp_path: Path, clock: Clock, database: Database) -> Iterator[Make]:
    made: list[Users] = []

    def make_users(passwd: bytes = PASSWD, **options: int | float) -> Users:
        path = tmp_path / "passwd"
        path.write_bytes(passwd)
        users = Users(database.lookup, str(path), clock=clock, **options)  # type: ignore[arg-type]
        made.append(users)
        return users

    yield make_users
    database.answering.set()
    for users in made:
        users.close()
        if users._thread is not None:
            users._thread.join(PATIENCE_SECONDS)
            assert not users._thread.is_alive()


def test_local_users_are_known_from_the_start(make: Make, database: Database) -> None:
    users = make()
    assert (users.name(0), users.primary_gid(0)) == ("root", 0)
    assert (users.name(1000), users.primary_gid(1000)) == ("alice", 1001)
    assert users._thread is None
    assert database.asked == []


def test_others_are_looked_up_off_the_path(make: Make, database: Database) -> None:
    users = make()
    database.accounts[5000] = Account("carol", 5001)
    database.answering.clear()
    assert users.name(5000) is None
    assert users.primary_gid(5000) is None
    assert users._thread is not None
    assert (users._thread.name, users._thread.daemon) == ("users", True)
    database.answering.set()
    settle(users)
    assert (users.name(5000), users.primary_gid(5000)) == ("carol", 5001)
    assert database.asked == [5000]


def test_start_starts_one_thread(make: Make) -> None:
    users = make()
    users.start()
    thread = users._thread
    users.start()
    assert thread is not None
    assert users._thread is thread


def test_a_hanging_lookup_holds_up_nobody(make: Make, database: Database) -> None:
    users = make()
    database.answering.clear()
    assert users.name(5000) is None
    assert database.entered.wait(PATIENCE_SECONDS)
    assert [users.name(5000), users.name(5001), users.name(0)] == [None, None, "root"]
    users.close()
    assert users.name(1000) == "alice"
    assert users._thread is not None
    assert users._thread.is_alive()


def test_asks_once_for_a_uid(make: Make, database: Database) -> None:
    users = make()
    database.answering.clear()
    for _ in range(5):
        users.name(5000)
        users.primary_gid(5000)
    database.answering.set()
    settle(users)
    assert database.asked == [5000]


def test_old_names_are_given_until_there_are_new_ones(make: Make, database: Database, clock: Clock) -> None:
    users = make(max_age=600)
    database.accounts[1000] = Account("alicia", 1002)
    clock.now += 600
    assert users.name(1000) == "alice"
    settle(users)
    assert database.asked == []
    clock.now += 1
    database.answering.clear()
    assert (users.name(1000), users.primary_gid(1000)) == ("alice", 1001)
    database.answering.set()
    settle(users)
    assert (users.name(1000), users.primary_gid(1000)) == ("alicia", 1002)
    assert database.asked == [1000]


def test_a_user_that_was_removed_is_forgotten(make: Make, clock: Clock) -> None:
    users = make(max_age=600)
    clock.now += 601
    assert users.name(1000) == "alice"
    settle(users)
    assert users.name(1000) is None
    assert users.primary_gid(1000) is None


def test_the_unknown_are_not_asked_for_again_at_once(make: Make, database: Database, clock: Clock) -> None:
    users = make(unknown_age=60)
    assert users.name(5000) is None
    settle(users)
    clock.now += 60
    assert users.name(5000) is None
    settle(users)
    assert database.asked == [5000]
    database.accounts[5000] = Account("carol", 5001)
    clock.now += 1
    assert users.name(5000) is None
    settle(users)
    assert users.name(5000) == "carol"
    assert users._unknown == {}
    assert database.asked == [5000, 5000]


def test_a_lookup_that_raises_is_counted_and_ends_nothing(
    make: Make, database: Database, clock: Clock
) -> None:
    users = make(max_age=600, unknown_age=60)
    database.error = OSError("no server")
    clock.now += 601
    assert users.name(5000) is None
    assert users.name(1000) == "alice"
    settle(users)
    assert users.failed == 2
    assert users.name(5000) is None
    assert users.name(1000) == "alice"
    settle(users)
    assert database.asked == [5000, 1000]
    database.error = None
    database.accounts[1000] = Account("alicia", 1002)
    clock.now += 61
    assert users.name(1000) == "alice"
    settle(users)
    assert users.name(1000) == "alicia"


def test_what_the_queue_cannot_hold_is_refused(
    make: Make, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "QUEUE_LIMIT", 2)
    users = make()
    database.answering.clear()
    for uid in (5000, 5001, 5002, 5003, 5000):
        assert users.name(uid) is None
    assert users.refused == 2


def test_users_beyond_the_limit_are_refused(make: Make, database: Database) -> None:
    users = make(limit=3)
    database.accounts = {uid: Account(f"u{uid}", uid) for uid in (5000, 5001)}
    users.name(5000)
    users.name(5001)
    settle(users)
    assert (users.name(5000), users.name(5001)) == ("u5000", None)
    assert users.refused == 1
    assert database.asked == [5000, 5001]


def test_the_unknown_push_out_nobody(make: Make, database: Database, clock: Clock) -> None:
    users = make(limit=3, unknown_age=60)
    for uid in range(100_000, 100_004):
        users.name(uid)
    database.accounts[5000] = Account("carol", 5001)
    users.name(5000)
    settle(users)
    assert users.name(5000) == "carol"
    assert users.refused == 1
    assert set(users._unknown) == {100_000, 100_001, 100_002}
    clock.now += 61
    users.name(100_001)
    users.name(100_003)
    settle(users)
    assert users.refused == 1
    assert set(users._unknown) == {100_001, 100_003}


def test_the_unknown_are_forgotten_in_the_order_of_their_last_lookup(make: Make, clock: Clock) -> None:
    users = make(unknown_age=60)
    for now, uid in ((0, 5000), (30, 5001), (61, 5000), (95, 5002)):
        clock.now = now
        users.name(uid)
        settle(users)
    assert list(users._unknown) == [5000, 5002]


def test_passwd_beyond_the_limit_is_refused(make: Make) -> None:
    users = make(limit=1)
    assert users.refused == 1
    assert "root" in {known.name for known in users._known.values()}


def test_a_closed_one_asks_nothing(make: Make, database: Database) -> None:
    users = make()
    users.close()
    users.start()
    assert users.name(5000) is None
    assert users.name(0) == "root"
    assert users._thread is None
    assert database.asked == []


def test_closing_drops_what_still_waits(make: Make, database: Database) -> None:
    users = make()
    database.answering.clear()
    users.name(5000)
    assert database.entered.wait(PATIENCE_SECONDS)
    users.name(5001)
    users.close()
    database.answering.set()
    settle(users)
    assert database.asked == [5000]


def test_no_thread_to_be_had(make: Make, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    users = make()
    database.accounts[5000] = Account("carol", 5001)

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert users.name(5000) is None
    assert users.refused == 1
    assert users.name(5000) is None
    settle(users)
    assert users.name(5000) == "carol"


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b":",
        b":::",
        b":x:7:7",
        b"name:x:7",
        b"name:x::7",
        b"name:x:-7:7",
        b"name:x:+7:7",
        b"name:x: 7:7",
        b"name:x:7_0:7",
        b"name:x:\xd9\xa7:7",
        b"name:x:7:",
        b"name:x:4294967295:7",
        b"name:x:" + b"9" * 5000 + b":7",
        b"+name:x:7:7",
        b"-name:x:7:7",
        b"#name:x:7:7",
        b"\x00" * 100,
    ],
)
def test_odd_lines_of_passwd_are_skipped(make: Make, line: bytes) -> None:
    users = make(line + b"\nalice:x:1000:1001::/:\n")
    assert set(users._known) == {1000}


def test_the_first_line_for_a_uid_counts(make: Make) -> None:
    users = make(b"root:x:0:0:::\ntoor:x:0:1:::")
    assert (users.name(0), users.primary_gid(0)) == ("root", 0)


def test_names_need_not_be_utf8(make: Make) -> None:
    users = make(b"m\xfcller:x:1000:1001:::\n")
    assert users.name(1000) == "m\ufffdller"


def test_reads_no_more_of_passwd_than_its_limit(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PASSWD_LIMIT_BYTES", PASSWD.index(b"1001") + 2)
    users = make()
    assert users.name(0) == "root"
    assert set(users._known) == {0}
    assert users.unread_bytes == len(PASSWD) - module.PASSWD_LIMIT_BYTES


def test_no_passwd_is_no_error(tmp_path: Path, database: Database) -> None:
    users = Users(database.lookup, str(tmp_path / "none"))
    assert users._known == {}
    users.close()


def test_asks_the_systems_database(monkeypatch: pytest.MonkeyPatch) -> None:
    me = pwd.getpwuid(0)
    assert lookup_account(0) == (me.pw_name, me.pw_gid)
    assert lookup_account(2**32) is None

    def latin1(uid: int) -> pwd.struct_passwd:
        return pwd.struct_passwd(("m\udcfcller", "x", uid, 7, "", "/", ""))

    monkeypatch.setattr(pwd, "getpwuid", latin1)
    assert lookup_account(5) == ("m\ufffdller", 7)
