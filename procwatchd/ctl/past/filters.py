# SPDX-License-Identifier: MIT
"""Words like `exe=*/curl` or `exit-code|gt=0`: which entries a person wants to see.

The keys and how they compare are the rules' own (rules/match.py); two words with one key are either of them, and `!=`
takes out what would match. What is hidden from an entry's command line is compared as it is shown. Entries about no
event are asked for by `event` alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from procwatchd.ctl.errors import CtlError
from procwatchd.ctl.past.facts import Facts, facts_of_entry, kind_of
from procwatchd.ctl.past.truth import Ask, Tags, ask_match
from procwatchd.ctl.past.unquote import unquote
from procwatchd.journal.build import NOT_STANDARD
from procwatchd.journal.kinds import MESSAGE_IDS, PREFIX
from procwatchd.process.fields import EVENTS, FIELDS
from procwatchd.rules.match import MatchError, compile_match
from procwatchd.rules.names import name_of, suggestion
from procwatchd.rules.requirement import DELETED, EXECUTABLES

_WILD = frozenset("*?\\")
# An entry has these otherwise than a rule compares them, or leaves them out where they are what their neighbour is.
_NOT_IN_INDEX = frozenset({*NOT_STANDARD, "CMDLINE", "PARENT_CMDLINE", "EUID", "GID"})


class Filter:
    """Which entries are wanted.

    `in_index` is what the journal can find by itself, as Journal takes it. `unknown` counts the entries of which could
    not be said whether they are wanted, and which were not taken.
    """

    def __init__(
        self,
        in_index: Mapping[str, Sequence[str]],
        events: frozenset[str] | None = None,
        ask: Ask | None = None,
    ) -> None:
        self.in_index = in_index
        self.unknown = 0
        self._events = events
        self._ask = ask

    def holds(self, entry: Mapping[str, Any]) -> bool:
        """Whether an entry of ours is wanted."""
        if self._events is not None and kind_of(entry) not in self._events:
            return False
        if self._ask is None:
            return True
        if kind_of(entry) not in EVENTS:
            return False
        tags = entry.get(PREFIX + "TAGS")
        verdict = self._ask(
            _as_shown(facts_of_entry(entry), entry), Tags(tags.split() if isinstance(tags, str) else ())
        )
        self.unknown += verdict.truth is None
        return verdict.truth is True


ALL = Filter({})


def parse_filter(words: Sequence[str]) -> Filter:
    """The filter that words on the command line mean. Raises CtlError with what is wrong."""
    wanted: dict[str, list[str]] = {}
    unwanted: list[dict[str, list[str]]] = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise CtlError(f"{word!r} is no filter: it is KEY=VALUE, such as exe=*/curl or 'exit-code|gt=0'")
        if not _is_text(word):
            raise CtlError(f"{word!r} is no filter: it is not UTF-8")
        if key.endswith("!"):
            unwanted.append({key[:-1]: [value]})
        else:
            wanted.setdefault(key, []).append(value)
    events = _take_events(wanted, unwanted)
    in_index = {
        name_of(key): _indexed(key, values) for key, values in wanted.items() if _is_in_index(key, values)
    }
    if events is not None:
        in_index["EVENT"] = sorted(events)
    tree: dict[str, Any] = {**wanted, **({"not": unwanted} if unwanted else {})}
    if not tree:
        return Filter(in_index, events)
    try:
        return Filter(in_index, events, ask_match(compile_match(tree)))
    except MatchError as error:
        raise CtlError(f"the filter cannot be: {error}") from None


def _take_events(wanted: dict[str, list[str]], unwanted: list[dict[str, list[str]]]) -> frozenset[str] | None:
    """The kinds of entries that are wanted, which are more than a rule may ask for; None for all."""
    taken = [word for one in unwanted for word in one.get("event", ())]
    unwanted[:] = [one for one in unwanted if "event" not in one]
    words = wanted.pop("event", None)
    for word in (*(words or ()), *taken):
        if word not in MESSAGE_IDS:
            raise CtlError(f"there is no event {word!r}{suggestion(word, list(MESSAGE_IDS))}")
    if words is None and not taken:
        return None
    return frozenset(MESSAGE_IDS if words is None else words) - frozenset(taken)


def _is_text(word: str) -> bool:
    try:
        word.encode()
    except UnicodeEncodeError:  # bytes of the command line that are none
        return False
    return True


def _is_in_index(key: str, values: Sequence[str]) -> bool:
    name = name_of(key)
    return (
        name in FIELDS
        and name not in _NOT_IN_INDEX
        and not any(_WILD.intersection(value) for value in values)
    )


def _indexed(key: str, values: list[str]) -> list[str]:
    """What entries may have that match; of an executable that is its path with the kernel's mark, too."""
    mark = DELETED.decode()
    return (
        [text for value in values for text in (value, value + mark)]
        if name_of(key) in EXECUTABLES
        else values
    )


def _as_shown(facts: Facts, entry: Mapping[str, Any]) -> Facts:
    """With the command lines that say less than there was, as they are in the entry."""
    values, hidden = dict(facts.values), dict(facts.hidden)
    for name in ("CMDLINE", "PARENT_CMDLINE"):
        shown = entry.get(PREFIX + name)
        if name in hidden and isinstance(shown, str):
            del hidden[name]
            arguments = unquote(shown)
            values[name] = shown.encode("utf-8", "surrogatepass") if arguments is None else arguments
    return dataclasses.replace(facts, values=values, hidden=hidden)
