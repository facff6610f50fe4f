# SPDX-License-Identifier: MIT
"""The names of users, without ever waiting for them.

Facts:
- A lookup may go to LDAP and take minutes, or never return (nsswitch.conf(5)). So one daemon thread asks,
  and only that thread waits.
- pwd.getpwuid raises KeyError for an unknown uid, and for any error of a lookup as well; it decodes names
  with surrogateescape (CPython, pwdmodule.c). Who is unknown now is therefore asked for again before long.
- A container's subordinate uids have no names, and there are 65 536 of them in each (subuid(5)). So what is
  unknown is kept apart, where it can push out nobody that has a name.
- In /etc/passwd the first line for a uid counts; "+" and "-" in front are NIS's (nss_compat).
"""

from __future__ import annotations

import os
import pwd
import threading
import time
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import NamedTuple

# Limits.
USERS_LIMIT = 65_536  # users with a name; and as many without
QUEUE_LIMIT = 1024  # uids waiting to be looked up
PASSWD_LIMIT_BYTES = 1 << 20
MAX_AGE_SECONDS = 600.0
UNKNOWN_AGE_SECONDS = 60.0


class Account(NamedTuple):
    """What the user database says of a uid."""

    name: str
    gid: int


class _Known(NamedTuple):
    name: str
    gid: int
    until: float


def lookup_account(uid: int) -> Account | None:
    """The account of `uid` by the system's user database, None where it has none. May take for ever."""
    try:
        found = pwd.getpwuid(uid)
    except KeyError:
        return None
    return Account(os.fsencode(found.pw_name).decode("utf-8", "replace"), found.pw_gid)


class Users:
    """Names and primary groups of users: what is known at once, the rest by a thread.

    A new one knows the users in the file `passwd_path`. What is older than `max_age` seconds is looked up
    again while the old answer is given; that there is no such user is believed for `unknown_age` seconds.
    `clock` is monotonic, in seconds.

    `refused` counts lookups not made or not kept because the queue or a table of `limit` users was full,
    `failed` those that raised, `unread_bytes` is how much of the passwd file was beyond its limit.

    Any thread may ask.
    """

    __slots__ = (
        "_clock",
        "_closed",
        "_known",
        "_limit",
        "_lock",
        "_lookup",
        "_max_age",
        "_pending",
        "_queue",
        "_thread",
        "_unknown",
        "_unknown_age",
        "failed",
        "refused",
        "unread_bytes",
    )

    def __init__(
        self,
        lookup: Callable[[int], Account | None] = lookup_account,
        passwd_path: str = "/etc/passwd",
        *,
        limit: int = USERS_LIMIT,
        max_age: float = MAX_AGE_SECONDS,
        unknown_age: float = UNKNOWN_AGE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lookup = lookup
        self._limit = limit
        self._max_age = max_age
        self._unknown_age = unknown_age
        self._clock = clock
        self._known: dict[int, _Known] = {}
        self._unknown: dict[int, float] = {}  # until when; all are kept equally long, so the oldest is first
        self._pending: set[int] = set()
        self._queue: SimpleQueue[int | None] = SimpleQueue()
        self._lock = threading.Lock()  # for what asking changes; never held during a lookup
        self._thread: threading.Thread | None = None
        self._closed = False
        self.failed = 0
        self.refused = 0
        self.unread_bytes = 0
        self._read_passwd(passwd_path)

    def name(self, uid: int) -> str | None:
        """The name of `uid` as far as it is known now; asks for it where it is not. Never waits."""
        known = self._known.get(uid)
        if known is None:
            self._miss(uid)
            return None
        if known.until < self._clock():
            self._ask(uid)
        return known.name

    def primary_gid(self, uid: int) -> int | None:
        """The gid that the user database has for `uid`; otherwise like `name`."""
        known = self._known.get(uid)
        if known is None:
            self._miss(uid)
            return None
        if known.until < self._clock():
            self._ask(uid)
        return known.gid

    def start(self) -> None:
        """Starts the thread, which the first unknown uid would do otherwise."""
        with self._lock:
            self._start()

    def close(self) -> None:
        """Ends the thread once the lookup that it is in returns; does not wait. What is known stays."""
        with self._lock:
            self._closed = True
            self._queue.put(None)

    def _miss(self, uid: int) -> None:
        until = self._unknown.get(uid)
        if until is None or until < self._clock():
            self._ask(uid)

    def _ask(self, uid: int) -> None:
        if uid in self._pending or self._closed:
            return
        with self._lock:
            if uid in self._pending or self._closed:
                return
            if len(self._pending) >= QUEUE_LIMIT or not self._start():
                self.refused += 1
                return
            self._pending.add(uid)
            self._queue.put(uid)

    def _start(self) -> bool:
        if self._thread is None and not self._closed:
            thread = threading.Thread(target=self._run, name="users", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no more threads: the next that asks tries again
                return False
            self._thread = thread
        return True

    def _run(self) -> None:
        while (uid := self._queue.get()) is not None and not self._closed:
            try:
                account = self._lookup(uid)
            except Exception:  # the border of one lookup: what NSS modules raise must not end all others
                self._keep_failed(uid)
            else:
                self._keep(uid, account)
            with self._lock:
                self._pending.discard(uid)

    def _keep(self, uid: int, account: Account | None) -> None:
        now = self._clock()
        if account is None:
            self._known.pop(uid, None)
        elif uid in self._known or len(self._known) < self._limit:
            self._known[uid] = _Known(account.name, account.gid, now + self._max_age)
            self._unknown.pop(uid, None)
            return
        else:
            self._refuse()
        self._keep_unknown(uid, now)

    def _keep_failed(self, uid: int) -> None:
        self.failed += 1
        now = self._clock()
        known = self._known.get(uid)
        if known is None:
            self._keep_unknown(uid, now)
        else:
            self._known[uid] = known._replace(until=now + self._unknown_age)

    def _keep_unknown(self, uid: int, now: float) -> None:
        unknown = self._unknown
        # `uid` itself goes here if it was kept: only what is out of date is asked for again.
        while unknown:
            oldest = next(iter(unknown))
            if unknown[oldest] >= now:
                break
            del unknown[oldest]
        if len(unknown) < self._limit:
            unknown[uid] = now + self._unknown_age
        else:
            self._refuse()

    def _refuse(self) -> None:
        with self._lock:
            self.refused += 1

    def _read_passwd(self, path: str) -> None:
        until = self._clock() + self._max_age
        try:
            with open(path, "rb") as file:
                data = file.read(PASSWD_LIMIT_BYTES)
                self.unread_bytes = max(0, os.fstat(file.fileno()).st_size - len(data))
        except OSError:
            return  # the database may be elsewhere; who is not known will be looked up
        if self.unread_bytes:
            data = data[: data.rfind(b"\n") + 1]
        for uid, account in _parse_passwd(data):
            if uid in self._known:
                continue
            if len(self._known) < self._limit:
                self._known[uid] = _Known(account.name, account.gid, until)
            else:
                self.refused += 1


def _parse_passwd(data: bytes) -> Iterator[tuple[int, Account]]:
    for line in data.split(b"\n"):
        fields = line.split(b":")
        if len(fields) < 4 or not fields[0] or fields[0][:1] in b"#+-":
            continue
        uid, gid = _parse_id(fields[2]), _parse_id(fields[3])
        if uid is not None and gid is not None:
            yield uid, Account(fields[0].decode("utf-8", "replace"), gid)


def _parse_id(text: bytes) -> int | None:
    # 4294967295 is (uid_t) -1: nobody's.
    if not text.isdigit() or len(text) > 10 or int(text) >= 0xFFFFFFFF:
        return None
    return int(text)
