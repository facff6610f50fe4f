# SPDX-License-Identifier: MIT
"""The texts that a regular expression cannot do without.

It need not find them, but must never find one that is not so: what it does not know for sure (flags, classes
within classes, letters after a backslash that stand for a character) makes it give up.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# Limits.
TEXTS_LIMIT = 16  # that alternatives one after the other come to


@dataclass(frozen=True, slots=True)
class _Found:
    """What a part of an expression finds has one of `texts` in it, or where `is_whole` is one of them."""

    texts: frozenset[str]
    is_whole: bool

    @property
    def shortest(self) -> int:
        return min(map(len, self.texts))


_NOTHING = _Found(frozenset({""}), is_whole=True)
_ANYTHING = _Found(frozenset({""}), is_whole=False)

_TOKEN = re.compile(
    r"""(?P<open>\((?!\?)|\(\?:|\(\?P?<\w+>)
      | (?P<close>\))
      | (?P<bar>\|)
      | (?P<repeat>(?:[*+?]|\{[0-9]+(?:,[0-9]*)?\})\??)
      | (?P<edge>[\^$]|\\[bBAz])
      | (?P<set>\.|\\[dDsSwWafnrtv]|\[\^?+\]?+(?:[^][\\]|\\.|\[:\^?\w+:\])*+\])
      | \\(?P<escaped>[^\w\s<>])
      | (?P<char>[^][\\(){}|*+?.^$])""",
    re.VERBOSE | re.DOTALL,
)
# Branches, of which one is found, each of parts, which are found one after the other.
_Group = list[list[_Found]]


def literals_of(regex: str) -> frozenset[str]:
    """Texts of which one is in whatever `regex`, which the engine took, is found in; none where none is known."""
    groups: list[_Group] = [[[]]]
    at = 0
    while at < len(regex):
        token = _TOKEN.match(regex, at)
        if token is None or not _take(groups, str(token.lastgroup), token):
            return frozenset()
        at = token.end()
    found = _one_of(groups[0])
    return found.texts if found.shortest else frozenset()


def _take(groups: list[_Group], kind: str, token: re.Match[str]) -> bool:
    """Put a token where it belongs; False where it belongs nowhere."""
    parts = groups[-1][-1]
    match kind:
        case "open":
            groups.append([[]])
        case "bar":
            groups[-1].append([])
        case "close" if len(groups) > 1:
            found = _one_of(groups.pop())
            groups[-1][-1].append(found)
        case "repeat" if parts:
            parts.append(_repeated(parts.pop(), token[0]))
        case "edge":
            parts.append(_NOTHING)
        case "set":
            parts.append(_ANYTHING)
        case "char" | "escaped":
            parts.append(_Found(frozenset({token[kind]}), is_whole=True))
        case _:
            return False
    return True


def _repeated(part: _Found, how_often: str) -> _Found:
    if how_often.startswith("?"):
        return _Found(part.texts | {""}, part.is_whole)
    return _ANYTHING if how_often.startswith(("*", "{0")) else _Found(part.texts, is_whole=False)


def _one_of(branches: _Group) -> _Found:
    found = [_in_turn(parts) for parts in branches]
    texts = frozenset().union(*(each.texts for each in found))
    return _Found(texts, all(each.is_whole for each in found))


def _in_turn(parts: list[_Found]) -> _Found:
    """All of the parts, one right after the other; where that is not one of few texts, those that say most."""
    run, ended = _NOTHING, []
    for part in parts:
        if part.is_whole and len(run.texts) * len(part.texts) <= TEXTS_LIMIT:
            run = _Found(frozenset(a + b for a in run.texts for b in part.texts), is_whole=True)
        else:
            ended += [run, part]
            run = part if part.is_whole else _NOTHING
    if not ended:
        return run
    best = max([*ended, run], key=lambda found: found.shortest)
    return _Found(best.texts, is_whole=False)
