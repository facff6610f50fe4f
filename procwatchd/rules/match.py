# SPDX-License-Identifier: MIT
"""The language of matches, compiled once to closures: nothing is looked up by name when an event comes.

A rule that silences must not be widened by who can choose what a path means: whoever may make a mount
namespace can call any binary /usr/bin/env. So in such a rule the executable of a process with other mounts
is worth nothing, and the rule holds only if it would hold whatever that executable were: a test of it is
false there, and true below an odd number of `not`s.
"""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from procwatchd.process.fields import FIELDS, Kind, Value, signal_name
from procwatchd.process.model import ANCESTOR_LIMIT, Process, Record
from procwatchd.rules import pattern
from procwatchd.rules.names import Scope, Target, UnknownNameError, resolve, suggestion
from procwatchd.rules.pattern import Get, Predicate
from procwatchd.rules.regex import RegexError, compile_regex
from procwatchd.rules.requirement import DELETED, EXECUTABLES, Requirements, requirements_of

# Limits.
VALUE_LIMIT = 4096  # characters of one value: no path is longer
DEPTH_LIMIT = 16  # of any, all and not in one another

Path = tuple[str | int, ...]
Item = tuple[Path, str]  # one value of a key, and the path to it
# Tells for a tag whether a match asks for it; and whether for its presence, not for its absence.
TagTest = tuple[Callable[[str], bool], bool]
Tree = dict[str, Any] | list[Any] | str | None

_TEXT_MODIFIERS = ("contains", "startswith", "endswith", "re")
_COMPARISONS: dict[str, Callable[[int, int], bool]] = {
    "lt": operator.lt,
    "lte": operator.le,
    "gt": operator.gt,
    "gte": operator.ge,
}
MODIFIERS = (*_TEXT_MODIFIERS, "all", "cased", *_COMPARISONS, "exists")
_GROUPS = ("any", "all", "not")
_TRUTH = {"on": True, "yes": True, "true": True, "off": False, "no": False, "false": False}
_NUMBER = re.compile(r"0|-?[1-9][0-9]{0,18}")

_SIGNALS = tuple(map(signal_name, range(1, 65)))

# What a test costs, roughly, so that the cheap ones are tried first.
_COSTS = {Kind.NUMBER: 1, Kind.WORD: 0, Kind.TEXT: 2}
_LONG_FIELDS = ("CMDLINE", "PARENT_CMDLINE", "ANCESTORS")
_LONG_COST, _GROUP_COST, _ANCESTORS_COST = 4, 6, 8


class MatchError(ValueError):
    """A match with problems: each the path to it in the tree, and what it is."""

    def __init__(self, problems: list[tuple[Path, str]]) -> None:
        super().__init__("; ".join(text for _, text in problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Match:
    """A compiled match. `test` presumes that the record's event is one of `events` (None: of any kind).

    `needs` are the names in FIELDS it looks at. `tag_tests` are what it asks of tags. `is_guarded`: it
    silences, and looks at a path that means something only in the host's own mount namespace. Where one of
    `requirements` is not met, `test` is False. `tree` is what it was compiled from.
    """

    test: Predicate
    events: frozenset[str] | None
    needs: frozenset[str]
    tag_tests: tuple[TagTest, ...]
    is_guarded: bool
    requirements: Requirements
    tree: Tree

    def holds(self, record: Record, tags: Collection[str] = ()) -> bool:
        """Whether `record` matches, where earlier rules gave it `tags`."""
        return (self.events is None or record.event in self.events) and self.test(record, tags)


def compile_match(
    tree: Tree, *, silences: bool = False, cased: bool = True, find: Callable[[str], Target] = resolve
) -> Match:
    """The match that a tree of mappings, lists, texts and None means. Raises MatchError with all problems.

    `silences`: paths of executables count only in the host's own mount namespace. `cased`: texts compare
    with case. `find` gives the field that a key names, and with it what the match is to look at.
    """
    compiler = _Compiler(silences=silences, cased=cased, find=find)
    events = compiler.take_events(tree) if isinstance(tree, dict) else None
    test = compiler.mapping(tree, (), events_taken=events is not None)
    if compiler.problems:
        raise MatchError(compiler.problems)
    return Match(
        test,
        events,
        frozenset(compiler.needs),
        tuple(compiler.tag_tests),
        compiler.is_guarded,
        requirements_of(tree, cased=cased) if isinstance(tree, dict) else {},
        tree,
    )


def _never(_subject: Any, _tags: Collection[str]) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class _Key:
    """One key of a mapping, taken apart. `target` is None for `tags`."""

    text: str
    target: Target | None
    modifiers: frozenset[str]

    @property
    def kind(self) -> Kind:
        return Kind.TEXT if self.target is None else self.target.field.kind

    @property
    def cost(self) -> int:
        if self.target is not None and self.target.field.name in _LONG_FIELDS:
            return _LONG_COST
        return _COSTS[self.kind] + bool(self.modifiers)


class _Compiler:
    """Compiles one match; the problems gather in `problems`, and what has one compiles to anything."""

    def __init__(self, *, silences: bool, cased: bool, find: Callable[[str], Target]) -> None:
        self.silences = silences
        self.cased = cased
        self.find = find
        self.problems: list[tuple[Path, str]] = []
        self.needs: set[str] = set()
        self.tag_tests: list[TagTest] = []
        self.is_guarded = False

    def problem(self, path: Path, text: str) -> Predicate:
        """Note a problem; what compiles in its place is never asked."""
        self.problems.append((path, text))
        return _never

    def take_events(self, tree: dict[str, Any]) -> frozenset[str] | None:
        """The events that the tree's own `event` key names; None where it has none, or a bad one."""
        value = tree.get("event")
        words = [value] if isinstance(value, str) else value
        known = FIELDS["EVENT"].words
        if (
            not isinstance(words, list)
            or not words
            or not all(isinstance(w, str) and w in known for w in words)
        ):
            return None
        self.needs.add("EVENT")
        return frozenset(words)

    def mapping(
        self, tree: Tree, path: Path, *, negative: bool = False, events_taken: bool = False
    ) -> Predicate:
        """All keys hold, those of ancestors for one and the same; `negative` below an odd number of `not`."""
        if not isinstance(tree, dict):
            return self.problem(path, "must be a mapping of fields to values")
        if not tree:
            return self.problem(path, "is empty: name at least one field")
        if sum(part in _GROUPS for part in path) > DEPTH_LIMIT:
            return self.problem(path, f"more than {DEPTH_LIMIT} of any, all and not in one another")
        terms: list[tuple[int, Predicate]] = []
        of_ancestor: list[tuple[int, Predicate]] = []
        for text, value in tree.items():
            here = (*path, text)
            if text in _GROUPS:
                terms.append((_GROUP_COST, self.group(text, value, here, negative=negative)))
            elif (key := self.key(text, here)) is not None and not (events_taken and text == "event"):
                is_ancestor = key.target is not None and key.target.scope is Scope.ANCESTOR
                test = self.guarded(key, self.leaf(key, value, here, negative=negative), negative=negative)
                (of_ancestor if is_ancestor else terms).append((key.cost, test))
        if of_ancestor:
            terms.append((_ANCESTORS_COST, _some_ancestor(_cheapest_first(of_ancestor))))
        return _cheapest_first(terms)

    def group(self, word: str, value: Tree, path: Path, *, negative: bool) -> Predicate:
        """`any`, `all` or `not` with its mappings."""
        negative ^= word == "not"
        if word == "not" and isinstance(value, dict):
            return pattern.negated(self.mapping(value, path, negative=negative))
        if not isinstance(value, list):
            return self.problem(path, f"must be a {'mapping or a ' if word == 'not' else ''}list of mappings")
        if not value:
            return self.problem(path, "is empty: give at least one mapping")
        tests = [self.mapping(tree, (*path, at), negative=negative) for at, tree in enumerate(value)]
        if word == "all":
            return pattern.all_of(tests)
        return pattern.negated(pattern.one_of(tests)) if word == "not" else pattern.one_of(tests)

    def key(self, text: str, path: Path) -> _Key | None:
        """A key taken apart; None with a problem noted."""
        name, *modifiers = text.split("|")
        unknown = [m for m in modifiers if m not in MODIFIERS]
        for word in unknown:
            self.problem(path, f"unknown modifier {word[:64]!r}{suggestion(word, list(MODIFIERS))}")
        if len(set(modifiers)) < len(modifiers):
            self.problem(path, "has a modifier twice")
        target = None
        if name != "tags":
            try:
                target = self.find(name)
            except UnknownNameError as problem:
                self.problem(path, str(problem))
                return None
            self.needs.add(target.field.name)
        key = _Key(text, target, frozenset(modifiers))
        if not unknown and (wrong := _misuse(key)):
            self.problem(path, wrong)
        return None if unknown or wrong else key

    def guarded(self, key: _Key, test: Predicate, *, negative: bool) -> Predicate:
        """The test, worth nothing in a silencing rule where the executable's path may mean anything."""
        trusted = None if key.target is None else key.target.trusted
        if trusted is None or not self.silences or "exists" in key.modifiers:
            return test
        self.is_guarded = True
        self.needs.add("MOUNT_NAMESPACE")
        if negative:
            return lambda subject, tags: not trusted(subject) or test(subject, tags)
        return lambda subject, tags: trusted(subject) and test(subject, tags)

    def leaf(self, key: _Key, value: Tree, path: Path, *, negative: bool) -> Predicate:
        """One key with its values."""
        items = self.items(value, path)
        if not items:
            return _never
        if "exists" in key.modifiers:
            return self.exists(key, [text for _, text in items], path, negative=negative)
        if key.target is None:
            return self.tags(key, items, negative=negative)
        if key.kind is Kind.NUMBER:
            return self.number(key, key.target.get, items, path)
        if key.kind is Kind.WORD:
            return self.word(key.target, items)
        if key.target.field.name == "EXIT_SIGNAL" and self.cased and not key.modifiers:
            self.signals(items)
        return self.text(key, _compared(key.target, items), items)

    def items(self, value: Tree, path: Path) -> list[Item]:
        """The values of a key, each with its path; none with a problem noted."""
        if isinstance(value, list) and not value:
            self.problem(path, "is an empty list, which nothing could match")
        found: list[Item] = []
        good = True
        for at, item in enumerate(value if isinstance(value, list) else [value]):
            here = (*path, at) if isinstance(value, list) else path
            if not isinstance(item, str):
                what = (
                    "has no value; write '' for an empty text"
                    if item is None
                    else "must be a text or a list of texts"
                )
                self.problem(here, what)
                good = False
            elif len(item) > VALUE_LIMIT:
                self.problem(here, f"longer than {VALUE_LIMIT} characters")
                good = False
            else:
                found.append((here, item))
        return found if good else []

    def signals(self, items: list[Item]) -> None:
        """Note what is no signal's name, and so could never match."""
        for path, text in items:
            parts = pattern.parse_pattern(text)
            if text not in _SIGNALS and all(isinstance(part, str) for part in parts):
                self.problem(path, f"{text[:64]!r} is no signal's name{_signal_suggestion(text)}")

    def exists(self, key: _Key, texts: list[str], path: Path, *, negative: bool) -> Predicate:
        """Whether there is a value at all."""
        wanted = _TRUTH.get(texts[0].lower()) if len(texts) == 1 else None
        if wanted is None:
            return self.problem(path, "must be true or false")
        if key.target is None:
            self.tag_tests.append((lambda _tag: True, wanted is not negative))
            return lambda _subject, tags: bool(tags) is wanted
        get = key.target.get
        return lambda subject, _tags: (get(subject) is not None) is wanted

    def number(self, key: _Key, get: Get, items: list[Item], path: Path) -> Predicate:
        """Numbers compare as numbers."""
        numbers: list[int] = []
        for here, text in items:
            if _NUMBER.fullmatch(text):
                numbers.append(int(text))
            else:
                self.problem(here, f"{text[:64]!r} is not a decimal number")
        if len(numbers) < len(items):
            return _never
        for word, compare in _COMPARISONS.items():
            if word in key.modifiers:
                if len(numbers) > 1:
                    return self.problem(path, f"'|{word}' takes one number, not a list")
                return _compares(get, compare, numbers[0])
        if len(numbers) == 1:
            only = numbers[0]
            return lambda subject, _tags: get(subject) == only
        wanted = frozenset(numbers)
        return lambda subject, _tags: get(subject) in wanted

    def word(self, target: Target, items: list[Item]) -> Predicate:
        """One of the few values there are."""
        words = target.field.words
        for path, text in items:
            if text not in words:
                self.problem(path, f"{text[:64]!r} is none of: {', '.join(words)}")
        get = target.get
        texts = [text for _, text in items]
        if len(texts) == 1:
            only = texts[0]
            return lambda subject, _tags: get(subject) == only
        wanted = frozenset(texts)
        return lambda subject, _tags: get(subject) in wanted

    def tags(self, key: _Key, items: list[Item], *, negative: bool) -> Predicate:
        """The tags given so far, each on its own."""
        tests = self.patterns(key, lambda tag: tag, items)
        self.tag_tests += [(_of_one_tag(test), not negative) for test in tests]
        return pattern.all_of([_some_tag(test) for test in tests])

    def text(self, key: _Key, get: Get, items: list[Item]) -> Predicate:
        """Texts and patterns, against bytes."""
        return pattern.all_of(self.patterns(key, get, items))

    def patterns(self, key: _Key, get: Get, items: list[Item]) -> list[Predicate]:
        """What must all hold: one test for any of the texts, with `|all` one for each."""
        if "re" in key.modifiers:
            return self.regexes(key, get, items)
        before = bool(key.modifiers & {"contains", "endswith"})
        after = bool(key.modifiers & {"contains", "startswith"})
        for path, text in items:
            if (before or after) and not text:
                self.problem(path, "an empty text is in every value; use '|exists' for that")
        cased = self.cased or "cased" in key.modifiers
        tests: list[Predicate] = []
        for group in _grouped(key, items):
            parsed = [pattern.parse_widened(text, before=before, after=after) for _, text in group]
            try:
                tests.append(pattern.matches_any(get, parsed, cased=cased))
            except RegexError as error:  # of one that has wildcards inside; which, the engine does not say
                tests.append(self.problem(group[0][0], f"bad pattern: {error}"))
        return tests

    def regexes(self, key: _Key, get: Get, items: list[Item]) -> list[Predicate]:
        """The same for regular expressions."""
        searches: dict[Path, Callable[[str], bool]] = {}
        for path, text in items:
            try:
                searches[path] = compile_regex(text, cased=self.cased or "cased" in key.modifiers)
            except RegexError as error:
                self.problem(path, f"{text[:64]!r}: bad pattern: {error}")
        if len(searches) < len(items):
            return [_never]
        return [pattern.finds(get, [searches[path] for path, _ in g]) for g in _grouped(key, items)]


def _grouped(key: _Key, items: list[Item]) -> list[list[Item]]:
    """Groups that must all hold, by one of their items each."""
    return [[item] for item in items] if "all" in key.modifiers else [items]


def _compared(target: Target, items: list[Item]) -> Get:
    """What gives the value to compare: for an executable its path, whether or not the file is still there.

    After an upgrade what still runs has the kernel's mark behind its path, and rules must not go blind. Where a
    value speaks of the mark itself, it counts.
    """
    get = target.get
    if target.field.name not in EXECUTABLES or any("(deleted" in text for _, text in items):
        return get

    def without_mark(subject: Any) -> Value:
        value = get(subject)
        return value.removesuffix(DELETED) if isinstance(value, bytes) else value

    return without_mark


def _signal_suggestion(text: str) -> str:
    """`; did you mean …?` with the name of a signal, or nothing where none is near."""
    if _NUMBER.fullmatch(text) and 0 < int(text) <= len(_SIGNALS):
        near = [_SIGNALS[int(text) - 1]]
    else:
        word = text[:64].upper()
        near = [name for name in _SIGNALS if name == f"SIG{word}"]
        near = near or difflib.get_close_matches(word, _SIGNALS, 1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _misuse(key: _Key) -> str:
    """Why the modifiers cannot stand on this field; "" where they can."""
    used = key.modifiers
    texts = [word for word in _TEXT_MODIFIERS if word in used]
    comparisons = [word for word in _COMPARISONS if word in used]
    if "exists" in used and len(used) > 1:
        return "'|exists' goes with no other modifier"
    if len(texts) + len(comparisons) > 1:
        return f"only one of {', '.join(texts + comparisons)} can be meant"
    if comparisons and key.kind is not Kind.NUMBER:
        return f"'|{comparisons[0]}' compares numbers, and this is text"
    if comparisons and "all" in used:
        return f"'|{comparisons[0]}' takes one number, so that '|all' means nothing"
    if texts and key.kind is Kind.NUMBER:
        return f"'|{texts[0]}' is for text, and this is a number"
    if (texts or "all" in used) and key.kind is Kind.WORD:
        return f"'|{texts[0] if texts else 'all'}' is for text, and this is one of a few words: list them"
    if "all" in used and key.kind is Kind.NUMBER:
        return "'|all' is for text, and this is a number"
    return ""


def _compares(get: Get, compare: Callable[[int, int], bool], limit: int) -> Predicate:
    def test(subject: Any, _tags: Collection[str]) -> bool:
        value = get(subject)
        return isinstance(value, int) and compare(value, limit)

    return test


def _of_one_tag(test: Predicate) -> Callable[[str], bool]:
    return lambda tag: test(tag, ())


def _some_tag(test: Predicate) -> Predicate:
    return lambda _subject, tags: any(test(tag, ()) for tag in tags)


def _cheapest_first(terms: list[tuple[int, Predicate]]) -> Predicate:
    return pattern.all_of([test for _, test in sorted(terms, key=operator.itemgetter(0))])


def _some_ancestor(test: Predicate) -> Predicate:
    def search(record: Record, tags: Collection[str]) -> bool:
        ancestor: Process | None = record.process.parent
        left = ANCESTOR_LIMIT
        while ancestor is not None and left:
            if test(ancestor, tags):
                return True
            ancestor = ancestor.parent
            left -= 1
        return False

    return search
