# SPDX-License-Identifier: MIT
"""What the worker knows of those who live, for the one that goes on after a restart.

It passes through a memory of ours that only we and the service manager ever have. What is made of it is limited to the
classes here all the same, and to what has the same layout: another version may know them in another way, and scans.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import sys
from collections import deque
from typing import BinaryIO

from procwatchd.kernel.recording import ExecRecording, SignalRecording
from procwatchd.kernel.taskstats import TaskEnd
from procwatchd.process.cgroup import Place
from procwatchd.process.kills import Signal
from procwatchd.process.model import Context, Creds, Image, Killer, Process
from procwatchd.process.others import Group
from procwatchd.process.resync import Summary
from procwatchd.process.table import Account, LongImage
from procwatchd.process.tally import Tally
from procwatchd.process.users import Users

_CLASSES: tuple[type, ...] = (
    Account,
    Context,
    Creds,
    ExecRecording,
    Group,
    Image,
    Killer,
    LongImage,
    Place,
    Process,
    Signal,
    SignalRecording,
    Tally,
    Summary,
    TaskEnd,
    deque,
)
_USERS = "users"
# To be raised where the same names come to mean something else.
_VERSION = 1


class _Pickler(pickle.Pickler):
    def __init__(self, file: BinaryIO, users: Users) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self._users = users

    def persistent_id(self, one: object) -> str | None:
        return _USERS if one is self._users else None


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, users: Users) -> None:
        super().__init__(file)
        self._users = users

    def persistent_load(self, _name: object) -> Users:
        return self._users

    def find_class(self, module: str, name: str) -> type:
        for one in _CLASSES:
            if (one.__module__, one.__qualname__) == (module, name):
                return one
        raise pickle.UnpicklingError(f"{module}.{name} is not one of the classes that are kept")


def pack(file: BinaryIO, parts: dict[str, object], lives: list[Process], users: Users, received: int) -> None:
    """Write these parts as they are, for `unpack`, after so many events were received.

    `lives` are all that they refer to, each after its parent.
    """
    kept = {name: {key: getattr(part, key) for key in _kept_of(part)} for name, part in parts.items()}
    # The lives come first: so a long line of parents is no deep nesting.
    _Pickler(file, users).dump((layout(parts), received, lives, kept))


def unpack(data: bytes, parts: dict[str, object], users: Users, received: int) -> bool:
    """Make these parts what others were after as many events; False, and nothing changed, if `data` is not of that."""
    try:
        *found, _lives, kept = _Unpickler(io.BytesIO(data), users).load()
        if found != [layout(parts), received]:
            return False
    except Exception:
        # Whatever is wrong with it, there is /proc to learn from.
        return False
    for name, part in parts.items():
        for key, value in kept[name].items():
            setattr(part, key, value)
    return True


def _kept_of(part: object) -> tuple[str, ...]:
    """The names of its attributes that are kept, as its class has them."""
    names: tuple[str, ...] = vars(type(part))["KEPT"]
    return names


def layout(parts: dict[str, object]) -> str:
    """What two versions must have in common for the one to understand the other."""
    kept = [(name, _kept_of(part)) for name, part in parts.items()]
    classes = [
        (one.__qualname__, getattr(one, "_fields", None) or getattr(one, "__slots__", ())) for one in _CLASSES
    ]
    return hashlib.sha256(repr((_VERSION, sys.version_info[:2], kept, classes)).encode()).hexdigest()
