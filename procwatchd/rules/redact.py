# SPDX-License-Identifier: MIT
"""Secrets in command lines, replaced by marks: `mysql -p<redacted:password:9f86d081>`.

The last part of a mark is a keyed hash: the same for the same secret, wherever it was found; without the key nobody can
try out what it may be the hash of.

Most command lines have no secret, and one look says so: a regular expression for the engine of rules/regex.py, wider
than all that is looked for after it. Only what it finds is taken apart into arguments, commands and scripts.
"""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator

from procwatchd.rules import programs, shapes
from procwatchd.rules.commands import DEPTH_LIMIT, read_commands
from procwatchd.rules.regex import compile_any, compile_regex, compile_wide
from procwatchd.rules.shapes import Secret

KEY_BYTES = 32
MARK_BYTES = 4

# Limits.
WHOLE_BYTES = 8 << 10  # of longer command lines only what is shown is looked at, and this around it:
AFTER_BYTES = 2 << 10
BEFORE_BYTES = 4 << 10
NAME_BYTES = 128  # of an option that may be called secret, or take one
PATTERNS_LIMIT = 100  # own ones

_HINTS = (*shapes.SHAPES_HINTS, *shapes.NAMES_HINTS, *programs.HINTS)
_is_suspicious = compile_any(_HINTS)
_words = re.compile(rb"[^\s\0]++")
_first_argument = re.compile(rb"(?:[^\0]{0,%d}\0)?[^\0]*+" % NAME_BYTES)


class Redactor:
    """Replaces what is secret. `patterns` are own ones, beside the built-in: a kind and a regular expression each.

    Two with the same `fingerprint` make the same of everything.
    """

    def __init__(
        self, key: bytes, *, is_builtin: bool = True, patterns: Iterable[tuple[str, str]] = ()
    ) -> None:
        self._key = key
        self._is_builtin = is_builtin
        named = tuple(patterns)
        self._patterns: tuple[tuple[str, Callable[[str], bool]], ...] = tuple(
            (kind, compile_regex(pattern)) for kind, pattern in named
        )
        self._is_own = compile_wide(pattern for _, pattern in named)
        self._hides_nothing = not is_builtin and not named
        asked = repr((_HINTS, is_builtin, named)).encode()
        self.fingerprint = int.from_bytes(hashlib.blake2b(asked, key=key, digest_size=7).digest())

    def redact(self, argv: bytes) -> bytes:
        """Arguments, each ended by NUL, without their secrets."""
        found = self._find(argv)
        return self._replaced(argv, found, 0, len(argv)) if found else argv

    def redact_cut(self, head: bytes, head_bytes: int, tail: bytes, tail_bytes: int) -> tuple[bytes, bytes]:
        """The same for the first bytes of `head` and the last ones of `tail`, of arguments whose middle is left out.

        What else there is of the two, which are the same where nothing is missing, is looked at, too: a secret is one
        on both sides of where it is cut.
        """
        is_whole = head is tail
        is_clean = is_whole and not self._patterns and not _is_suspicious(shapes.lowered(head))
        if self._hides_nothing or is_clean:
            return head[:head_bytes], tail[len(tail) - tail_bytes :]
        if is_whole and len(head) <= WHOLE_BYTES:
            text, found = head, self._find(head)
        else:
            head, tail = head[: head_bytes + AFTER_BYTES], tail[-tail_bytes - BEFORE_BYTES :]
            text = head + b"\0" + tail
            found = _disjoint([*self._find(text), *_next_to_cut(head, tail)])
        return (
            self._replaced(text, found, 0, head_bytes),
            self._replaced(text, found, len(text) - tail_bytes, len(text)),
        )

    def redact_variable(self, name: str, value: bytes, limit: int | None = None) -> bytes:
        """What a variable of the environment holds, without secrets; with a `limit`, so many of its first bytes."""
        if self._is_builtin and shapes.is_secret_name(name.encode()) and not shapes.is_harmless(value):
            return self._mark(Secret(0, len(value), shapes.kind_of(name.encode()), value))
        return self.redact(value) if limit is None else self.redact_cut(value, limit, value, 0)[0]

    def _find(self, text: bytes) -> list[Secret]:
        """The secrets, in order and apart from one another."""
        found: list[Secret] = []
        if self._is_builtin:
            found += _find_builtin(text)
        if self._patterns:
            found += self._find_own(text)
        return _disjoint(found) if found else found

    def _find_own(self, text: bytes) -> list[Secret]:
        """What own patterns are found in: a word, or where it takes more than one, the whole argument."""
        found: list[Secret] = []
        start = 0
        for argument in text.split(b"\0"):
            shown = argument.decode("utf-8", "replace")
            for kind, is_in in self._patterns if self._is_own(shown) else ():
                if is_in(shown):
                    words = [*_words.finditer(argument)]
                    hits = [w for w in words if is_in(w[0].decode("utf-8", "replace"))]
                    spans = [w.span() for w in hits] or [(0, len(argument))]
                    found += [
                        Secret(start + low, start + high, kind, argument[low:high]) for low, high in spans
                    ]
            start += len(argument) + 1
        return found

    def _replaced(self, text: bytes, found: list[Secret], start: int, end: int) -> bytes:
        """What is in `text` from `start` up to `end`, and marks for the secrets of which something is there."""
        parts = []
        for secret in found:
            if secret.end > start and secret.start < end:
                parts += [text[start : max(start, secret.start)], self._mark(secret)]
                start = secret.end
        return b"".join((*parts, text[start:end]))

    def _mark(self, secret: Secret) -> bytes:
        digest = hashlib.blake2b(secret.plain, key=self._key, digest_size=MARK_BYTES).hexdigest()
        return f"<redacted:{secret.kind}:{digest}>".encode()


def _find_builtin(text: bytes, depth: int = 0) -> list[Secret]:
    """The secrets that the tables know, also where a script has them in quotes within quotes."""
    if not _is_suspicious(shapes.lowered(text)):
        return []
    reading = read_commands(text)
    unquoted = [*reading.unquoted.values()] if depth < DEPTH_LIMIT else []
    quoted = sorted(span for command in unquoted for span in command.quoted)
    within = (
        command.in_script(secret)
        for command in unquoted
        for secret in _find_builtin(bytes(command.text), depth + 1)
    )
    return [
        *_outside(quoted, shapes.shaped(text, reading.scripts)),
        *(s for s in within if not shapes.is_harmless(text[s.start : s.end], in_shell=True)),
        *reading.secrets,
        *_outside(quoted, shapes.named(text, reading.scripts)),
    ]


def _outside(spans: list[tuple[int, int]], found: Iterable[Secret]) -> Iterator[Secret]:
    """Those that begin in none of these places, or with one: what they are called may be before it."""
    for secret in found:
        at = bisect_left(spans, secret.start, key=lambda span: span[0]) - 1
        if at < 0 or spans[at][1] <= secret.start:
            yield secret


def _next_to_cut(head: bytes, tail: bytes) -> list[Secret]:
    """What may be a part of a secret, or be called one by what is not there: next to where the middle was.

    Before it that is a word, as what is longer is known by how it begins. Behind it that is an argument, and if it is
    no longer than a name the next one, too.
    """
    found = []
    # Not by a regular expression, which would try each place in turn.
    edge = head[-AFTER_BYTES:].replace(b"\0", b" ")
    if edge and not edge[-1:].isspace():
        word = edge.rsplit(None, 1)[-1]
        found.append(Secret(len(head) - len(word), len(head), "cut", word))
    if (first := _first_argument.match(tail)) and first[0]:
        start = len(head) + 1
        found.append(Secret(start, start + first.end(), "cut", first[0]))
    return found


def _disjoint(found: list[Secret]) -> list[Secret]:
    """In order, and of those that overlap one for all: of the kind of the outer one, or of the first to be found."""
    apart: list[Secret] = []
    for secret in sorted(found, key=lambda secret: (secret.start, -secret.end)):
        last = apart[-1] if apart else None
        if last is None or secret.start >= last.end:
            apart.append(secret)
        elif secret.end > last.end:
            apart[-1] = Secret(last.start, secret.end, last.kind, last.plain)
    return apart
