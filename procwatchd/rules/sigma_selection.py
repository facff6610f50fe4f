# SPDX-License-Identifier: MIT
"""Selections of Sigma rules, as matches.

Facts (Sigma's specification 2, as pySigma 2 reads it):
- A mapping's keys must all hold, of a list's values one; values in no mapping are looked for in the whole event.
- Texts compare without case, but with `cased`; regular expressions with it, but with `i`.
- Within the brackets of a regular expression `[`, `&&`, `--` and `~~` are characters, as are `<` and `>` anywhere, with
  a backslash, too; to our engine they are sets within sets, what is done with those, and where words begin and end.
- Modifiers apply in turn. What `windash` and `base64offset` make of a value are alternatives, also under `all`.
- `null`, or an empty list, is a field that is not there.
"""

from __future__ import annotations

import base64
import difflib
import itertools
import re
from collections.abc import Callable, Collection, Iterable
from typing import Any

from procwatchd.process.fields import Kind
from procwatchd.rules.names import resolve
from procwatchd.rules.pattern import Part, Wild, parse_pattern, widened
from procwatchd.rules.regex import RegexError, compile_regex, escape

# Limits.
DASHES_LIMIT = 3  # of one value that `windash` makes others of: each makes five times as many

Path = tuple[str | int, ...]
Tree = dict[str, Any]
Parts = list[Part]

# The fields of process_creation by ours.
FIELDS = {
    "Image": "exe",
    "CommandLine": "cmdline",
    "CurrentDirectory": "cwd",
    "User": "user",
    "LogonId": "loginuid",
    "ProcessId": "pid",
    "ParentImage": "parent-exe",
    "ParentCommandLine": "parent-cmdline",
    "ParentProcessId": "ppid",
    "ParentUser": "parent.user",
}
# Those that nobody has here: what is written in an executable for Windows, and what that system alone knows.
ABSENT = frozenset(
    {
        *(
            "Company",
            "Description",
            "FileVersion",
            "Hashes",
            "IntegrityLevel",
            "LogonGuid",
            "OriginalFileName",
        ),
        *("ParentIntegrityLevel", "ParentProcessGuid", "ProcessGuid", "Product", "Provider_Name"),
        *("TerminalSessionId", "imphash", "md5", "sha1", "sha256"),
    }
)
# Where what belongs to no field is looked for.
SEARCHED = ("cmdline", "exe", "parent-cmdline", "parent-exe", "cwd", "user")

_COMPARISONS = frozenset({"lt", "lte", "gt", "gte"})
_FLAGS = {"i": "i", "ignorecase": "i", "m": "m", "multiline": "m", "s": "s", "dotall": "s"}
_ENCODINGS = {"wide": "utf-16-le", "utf16": "utf-16", "utf16be": "utf-16-be"}
_ANYWHERE = frozenset({"all", "neq"})
_UNSUPPORTED = {
    "expand": "placeholders have no values here",
    "fieldref": "two fields are not compared here",
    "cidr": "no field here is an address",
    **dict.fromkeys(("minute", "hour", "day", "week", "month", "year"), "no field here is a date"),
}
_NUMBER = re.compile(r"0|-?[1-9][0-9]{0,18}")
# What is escaped in a regular expression, or within brackets; and these themselves.
_ATOM = r"\\[pPxuU]\{[^}]*\}|\\."
_BRACKETS = re.compile(rf"(?:{_ATOM})|\[(\^?)(\]?(?:\[:\^?[a-z]+:\]|{_ATOM}|[^\]\\])*+)\]", re.DOTALL)
_IN_BRACKETS = re.compile(rf"(\[:\^?[a-z]+:\])|({_ATOM}|.)(?:-({_ATOM}|[^\]]))?", re.DOTALL)
_DASH = re.compile(r"\B[-/]\b")
_DASHES = "-/\u2013\u2014\u2015"

# All processes have a PID.
_ALWAYS: Tree = {"pid|exists": "true"}
_NEVER: Tree = {"pid|exists": "false"}


class SelectionError(ValueError):
    """A selection that means nothing here; the text is the reason, `path` leads to it."""

    def __init__(self, path: Path, text: str) -> None:
        super().__init__(text)
        self.path = path


def selection(raw: Any, path: Path) -> Tree:
    """The match that a selection means. Raises SelectionError."""
    if raw in ({}, []):
        raise SelectionError(path, "is empty")
    if isinstance(raw, dict):
        return _joined("all", [_Item(key, value, (*path, key)).tree() for key, value in raw.items()])
    if isinstance(raw, list) and any(isinstance(each, dict | list) for each in raw):
        return _joined("any", [selection(each, (*path, at)) for at, each in enumerate(raw)])
    return _Item("", raw, path).tree()


def _joined(group: str, trees: list[Tree]) -> Tree:
    return trees[0] if len(trees) == 1 else {group: trees}


class _Item:
    """One key with its values. A key without a field means the whole event."""

    def __init__(self, key: str, raw: Any, path: Path) -> None:
        self.path = path
        self.name, *self.modifiers = key.split("|")
        # A list without values is a field without a value.
        self.values: list[Any] = (raw or [None]) if isinstance(raw, list) else [raw]
        self.field = FIELDS.get(self.name)
        if not (self.field or self.name in ABSENT or not self.name):
            raise self.problem(f"unknown field {self.name[:64]!r}{_near(self.name, FIELDS)}")

    def problem(self, text: str) -> SelectionError:
        return SelectionError(self.path, text)

    def tree(self) -> Tree:
        """The match that it means."""
        self._check()
        trees = [self._value(value) for value in self.values]
        tree = _merged("all" if "all" in self.modifiers else "any", trees)
        return {"not": tree} if "neq" in self.modifiers else tree

    def _check(self) -> None:
        used = set(self.modifiers) - _ANYWHERE
        for word in used:
            if word in _UNSUPPORTED:
                raise self.problem(f"'|{word}' cannot be had: {_UNSUPPORTED[word]}")
            if word not in MODIFIERS:
                raise self.problem(f"unknown modifier {word[:64]!r}{_near(word, MODIFIERS)}")
        for word, company in _COMPANY.items():
            if word in used and (strange := used - company - {word}):
                raise self.problem(f"'|{word}' does not go with '|{min(strange)}'")
        if (flags := used & set(_FLAGS)) and "re" not in used:
            raise self.problem(f"'|{min(flags)}' goes with '|re' alone")
        for word, following in itertools.pairwise([*self.modifiers, ""]):
            if word in _ENCODINGS and not following.startswith("base64"):
                raise self.problem(f"'|{word}' goes before '|base64' or '|base64offset' alone")

    def _value(self, value: Any) -> Tree:
        if isinstance(value, dict | list):
            raise self.problem("must be a single value or a list of such")
        if "exists" in self.modifiers:
            return self._exists(value)
        if value is None and set(self.modifiers) <= _ANYWHERE:
            return self._is_there(is_it=False)
        if value is None:
            raise self.problem("null goes with no modifier but '|all' and '|neq'")
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if self.name and self.field is None:
            return _NEVER
        if self.field is not None and resolve(self.field).field.kind is Kind.NUMBER:
            return self._number(self.field, value)
        return self._text(value)

    def _exists(self, value: Any) -> Tree:
        if not isinstance(value, bool) or not self.name:
            raise self.problem("'|exists' takes a field, and true or false")
        return self._is_there(is_it=value)

    def _is_there(self, *, is_it: bool) -> Tree:
        if not self.name:
            raise self.problem("has no value")
        if self.field is None:
            return _NEVER if is_it else _ALWAYS
        return {f"{self.field}|exists": str(is_it).lower()}

    def _number(self, field: str, value: Any) -> Tree:
        comparisons = _COMPARISONS.intersection(self.modifiers)
        if strange := set(self.modifiers) - _ANYWHERE - comparisons:
            raise self.problem(f"'|{min(strange)}' is for text, and {self.name} is a number")
        if isinstance(value, bool) or not _NUMBER.fullmatch(str(value)):
            raise self.problem(f"{value!r} is not a decimal number")
        return {"|".join([field, *comparisons]): str(value)}

    def _text(self, value: Any) -> Tree:
        """A text in a field, or where there is none in any of those that are searched."""
        if comparison := _COMPARISONS.intersection(self.modifiers):
            raise self.problem(f"'|{min(comparison)}' compares numbers, and this is text")
        if not isinstance(value, str):
            if set(self.modifiers) - _ANYWHERE:
                raise self.problem(f"{value!r} is not a text: put it in quotes")
            value = str(value).lower()
        if "re" in self.modifiers:
            key, texts = self._regex(value)
        else:
            key = "|cased" if "cased" in self.modifiers else ""
            texts = [_written(parts) for parts in self._alternatives(value)]
        if self.field is not None:
            return {self.field + key: texts}
        return {"any": [{field + key: texts} for field in SEARCHED]}

    def _regex(self, value: str) -> tuple[str, list[str]]:
        flags = {_FLAGS[word] for word in self.modifiers if word in _FLAGS}
        inner = "".join(sorted(flags - {"i"}))
        value = _BRACKETS.sub(_plain, value)
        regex = f"(?{inner}){value}" if inner else value
        try:
            compile_regex(regex)
        except RegexError as error:
            raise self.problem(f"{value[:64]!r}: bad pattern: {error}") from None
        return "|re" if "i" in flags else "|re|cased", [regex]

    def _alternatives(self, value: str) -> list[Parts]:
        """The patterns that the modifiers make of a text."""
        found = [parse_pattern(value)]
        encoding = "utf-8"
        for word in self.modifiers:
            if word in _ENCODINGS:
                encoding = _ENCODINGS[word]
            elif word in _STEPS:
                try:
                    found = [new for parts in found for new in _STEPS[word](parts, encoding)]
                except ValueError as error:
                    raise self.problem(str(error)) from None
        return found if self.name else [widened(parts, before=True, after=True) for parts in found]


def _plain(found: re.Match[str]) -> str:
    """The same part of a regular expression, where what is special to our engine alone is escaped."""
    if found[2] is None:
        return _plain_character(found[0])
    inner = _IN_BRACKETS.sub(
        lambda item: item[1] or "-".join(map(_plain_character, filter(None, item.group(2, 3)))), found[2]
    )
    return f"[{found[1]}{inner}]"


def _plain_character(character: str) -> str:
    if character in ("\\<", "\\>"):
        return character[1]
    return character if character.startswith("\\") else escape(character)


def _merged(group: str, trees: list[Tree]) -> Tree:
    """The same as one mapping where one of them must hold and all are values of the same key."""
    keys = {key for tree in trees for key in tree}
    if group == "all" or len(trees) == 1 or len(keys) > 1 or not all(map(_is_list, trees)):
        return _joined(group, trees)
    (key,) = keys
    return {key: list(itertools.chain.from_iterable(tree[key] for tree in trees))}


def _is_list(tree: Tree) -> bool:
    return all(isinstance(value, list) for value in tree.values())


def _near(word: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(word[:64], known, 1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _written(parts: Parts) -> str:
    """A pattern as a match has it."""
    return "".join(
        re.sub(r"[\\*?]", r"\\\g<0>", part) if isinstance(part, str) else "*" if part is Wild.ANY else "?"
        for part in parts
    )


def _bytes(parts: Parts, encoding: str) -> bytes:
    if any(isinstance(part, Wild) for part in parts):
        raise ValueError("what is encoded cannot have wildcards; a backslash makes them plain")
    text = "".join(part for part in parts if isinstance(part, str))
    # With a mark of the order of bytes where the encoding leaves that open.
    return b"\xff\xfe" + text.encode("utf-16-le") if encoding == "utf-16" else text.encode(encoding)


def _base64(parts: Parts, encoding: str) -> list[Parts]:
    return [[base64.b64encode(_bytes(parts, encoding)).decode()]]


def _base64_anywhere(parts: Parts, encoding: str) -> list[Parts]:
    """What is the same in whatever text the value is encoded within, by where in a group of three bytes it begins."""
    data = _bytes(parts, encoding)
    found: list[Parts] = []
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + data).decode()
        found.append([encoded[-(-8 * before // 6) : 8 * (before + len(data)) // 6]])
    return found


def _with_dashes(parts: Parts, _encoding: str) -> list[Parts]:
    """All ways to write the dashes and slashes that begin an option."""
    pieces: list[list[Part]] = []
    for part in parts:
        if not isinstance(part, str):
            pieces.append([part])
            continue
        first, *others = _DASH.split(part)
        pieces += [[first], *(choice for other in others for choice in ([*_DASHES], [other]))]
    if sum(len(piece) > 1 for piece in pieces) > DASHES_LIMIT:
        raise ValueError(f"'|windash' with more than {DASHES_LIMIT} dashes: split the value")
    return [_fused(choice) for choice in itertools.product(*pieces)]


def _fused(parts: Iterable[Part]) -> Parts:
    """The pattern with its texts in one where they follow each other."""
    fused: Parts = []
    for part in parts:
        if isinstance(part, str) and fused and isinstance(fused[-1], str):
            fused[-1] += part
        elif part != "":
            fused.append(part)
    return fused


_STEPS: dict[str, Callable[[Parts, str], list[Parts]]] = {
    "contains": lambda parts, _: [widened(parts, before=True, after=True)],
    "startswith": lambda parts, _: [widened(parts, before=False, after=True)],
    "endswith": lambda parts, _: [widened(parts, before=True, after=False)],
    "windash": _with_dashes,
    "base64": _base64,
    "base64offset": _base64_anywhere,
}
MODIFIERS = frozenset({*_STEPS, *_ENCODINGS, *_FLAGS, *_COMPARISONS, *_ANYWHERE, "re", "cased", "exists"})
# What goes with few others; `all` and `neq` go with everything.
_COMPANY: dict[str, frozenset[str]] = {
    "re": frozenset(_FLAGS),
    "exists": frozenset(),
    **dict.fromkeys(_COMPARISONS, frozenset[str]()),
}
