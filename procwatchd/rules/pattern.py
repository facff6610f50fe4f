# SPDX-License-Identifier: MIT
"""Texts and patterns with `*` and `?`, compiled to the cheapest function that tells them.

A predicate takes what it looks at, here only to hand it to `get`, and the tags given so far, here unused.
Most patterns have stars at their ends alone, and are prefixes or suffixes of bytes; what is left goes to
the regex engine.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from procwatchd.process.fields import Value
from procwatchd.rules.regex import PATTERN_LIMIT, compile_regex, escape

Get = Callable[[Any], Value]
Predicate = Callable[[Any, Collection[str]], bool]


class Wild(Enum):
    """A wildcard, by its regular expression."""

    ANY = ".*"
    ONE = "."


Part = str | Wild
_WILD = {"*": Wild.ANY, "?": Wild.ONE}


def parse_pattern(text: str) -> list[Part]:
    r"""Literal texts and wildcards in turn. A backslash before `*`, `?` or `\` makes it a literal."""
    parts: list[Part] = []
    literal = ""
    at = 0
    while at < len(text):
        char = text[at]
        if char == "\\" and text[at + 1 : at + 2] in ("*", "?", "\\"):
            at += 1
            literal += text[at]
        elif char in _WILD:
            parts += [literal, _WILD[char]] if literal else [_WILD[char]]
            literal = ""
        else:
            literal += char
        at += 1
    return [*parts, literal] if literal else parts


def parse_widened(text: str, *, before: bool, after: bool) -> list[Part]:
    """The same where anything may stand before the pattern, or after it."""
    return widened(parse_pattern(text), before=before, after=after)


def widened(parts: list[Part], *, before: bool, after: bool) -> list[Part]:
    """The pattern where anything may stand before it, or after it."""
    any_: list[Part] = [Wild.ANY]
    front = any_ if before and parts[:1] != any_ else []
    return [*front, *parts, *(any_ if after and parts[-1:] != any_ else [])]


@dataclass(slots=True)
class _Sorted:
    """Patterns by the cheapest way to tell them."""

    equal: list[str] = field(default_factory=list)
    prefixes: list[str] = field(default_factory=list)
    suffixes: list[str] = field(default_factory=list)
    inner: list[str] = field(default_factory=list)
    regexes: list[str] = field(default_factory=list)

    def add(self, parts: list[Part]) -> None:
        """Put a pattern where it belongs."""
        match parts:
            case []:
                self.equal.append("")
            case [str(text)]:
                self.equal.append(text)
            case [str(text), Wild.ANY]:
                self.prefixes.append(text)
            case [Wild.ANY, str(text)]:
                self.suffixes.append(text)
            case [Wild.ANY, str(text), Wild.ANY]:
                self.inner.append(text)
            case _:
                self.regexes.append(_regex(parts))


def _regex(parts: list[Part]) -> str:
    """What is found where the pattern is the whole; the engine need not walk through what may stand at its ends."""
    front, back = r"\A", r"\z"
    if parts[:1] == [Wild.ANY]:
        front, parts = "", parts[1:]
    if parts[-1:] == [Wild.ANY]:
        back, parts = "", parts[:-1]
    return front + "".join(escape(p) if isinstance(p, str) else p.value for p in parts) + back


def _joined(regexes: list[str]) -> list[str]:
    """As few expressions as the engine's limit allows that find what one of `regexes` does."""
    joined: list[str] = []
    for regex in regexes:
        if joined and len(joined[-1]) + len(regex) < PATTERN_LIMIT - len("(?i)"):
            joined[-1] += "|" + regex
        else:
            joined.append("(?s)" + regex)
    return joined


def matches_any(get: Get, patterns: Iterable[list[Part]], *, cased: bool) -> Predicate:
    """True where one of `patterns` is the whole of the value. Raises RegexError for one that is too large."""
    ways = _Sorted()
    if cased:
        for parts in patterns:
            ways.add(parts)
    else:
        ways.regexes = [_regex(parts) for parts in patterns]
    tests: list[Predicate] = []
    if ways.equal:
        tests.append(is_one_of(get, ways.equal))
    if ways.prefixes:
        tests.append(_starts(get, ways.prefixes))
    if ways.suffixes:
        tests.append(_ends(get, ways.suffixes))
    if ways.inner:
        tests.append(_contains(get, ways.inner))
    if ways.regexes:
        tests.append(finds(get, [compile_regex(regex, cased=cased) for regex in _joined(ways.regexes)]))
    return one_of(tests)


def is_one_of(get: Get, texts: list[str]) -> Predicate:
    """True where the value is one of `texts`."""
    wanted = frozenset([*texts, *(text.encode() for text in texts)])
    return lambda subject, _tags: get(subject) in wanted


def _starts(get: Get, texts: list[str]) -> Predicate:
    prefixes, text_prefixes = tuple(text.encode() for text in texts), tuple(texts)

    def test(subject: Any, _tags: Collection[str]) -> bool:
        value = get(subject)
        if isinstance(value, bytes):
            return value.startswith(prefixes)
        return isinstance(value, str) and value.startswith(text_prefixes)

    return test


def _ends(get: Get, texts: list[str]) -> Predicate:
    suffixes, text_suffixes = tuple(text.encode() for text in texts), tuple(texts)

    def test(subject: Any, _tags: Collection[str]) -> bool:
        value = get(subject)
        if isinstance(value, bytes):
            return value.endswith(suffixes)
        return isinstance(value, str) and value.endswith(text_suffixes)

    return test


def _contains(get: Get, texts: list[str]) -> Predicate:
    needles = tuple(text.encode() for text in texts)

    def test(subject: Any, _tags: Collection[str]) -> bool:
        value = get(subject)
        if isinstance(value, str):
            value = value.encode("utf-8", "replace")
        if not isinstance(value, bytes):
            return False
        for needle in needles:  # noqa: SIM110  any() with a generator takes twice as long
            if needle in value:
                return True
        return False

    return test


def text_of(value: Value) -> str | None:
    """The text of a value, None where it is none; what is not UTF-8 there is U+FFFD."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, str):
        # A surrogate would make the engine find nothing.
        return value if value.isascii() else value.encode("utf-8", "replace").decode()
    return None


def finds(get: Get, searches: list[Callable[[str], bool]]) -> Predicate:
    """True where one of `searches` finds something in the value's text."""

    def test(subject: Any, _tags: Collection[str]) -> bool:
        text = text_of(get(subject))
        if text is None:
            return False
        for search in searches:  # noqa: SIM110  as above
            if search(text):
                return True
        return False

    return test


def one_of(tests: list[Predicate]) -> Predicate:
    """True where one of `tests` holds."""
    if len(tests) == 1:
        return tests[0]
    if len(tests) == 2:
        first, second = tests
        return lambda subject, tags: first(subject, tags) or second(subject, tags)
    every = tuple(tests)

    def test(subject: Any, tags: Collection[str]) -> bool:
        for each in every:  # noqa: SIM110  as above
            if each(subject, tags):
                return True
        return False

    return test


def all_of(tests: list[Predicate]) -> Predicate:
    """True where all of `tests` hold; where there is none."""
    if len(tests) == 1:
        return tests[0]
    if len(tests) == 2:
        first, second = tests
        return lambda subject, tags: first(subject, tags) and second(subject, tags)
    every = tuple(tests)

    def test(subject: Any, tags: Collection[str]) -> bool:
        for each in every:  # noqa: SIM110  as above
            if not each(subject, tags):
                return False
        return True

    return test


def negated(test: Predicate) -> Predicate:
    """True where `test` does not hold."""
    return lambda subject, tags: not test(subject, tags)
