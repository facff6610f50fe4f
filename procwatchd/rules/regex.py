# SPDX-License-Identifier: MIT
"""Regular expressions whose time grows with the text alone.

Python's `re` backtracks: `(a+)+$` against a long argument, which anybody may choose, would stop the daemon
for good. So patterns go to the engine that pydantic brings along, Rust's regex: finite automata, without
look-around and back-references.

For each byte that engine goes through all places in the pattern where it may be, in the worst case; and `(a{100}){100}`
has ten thousand. So what counts in braces come to has a limit, as the length has; and what would hide them, comments
by the flag x, is not taken.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from pydantic_core import SchemaError, SchemaValidator, core_schema

# Limits.
PATTERN_LIMIT = 4096  # characters; the engine itself refuses what compiles to more than 10 MiB
COUNTS_LIMIT = 1000  # characters and sets, written out as often as counts say

_SPECIAL = frozenset(r"\.+*?()|[]{}^$#&-~")
_TOKEN = re.compile(
    r"""(?P<open>\((?:\?(?:P?<[^>]*>|(?P<flags>[a-zA-Z-]*)[:)]))?)
      | (?P<close>\))
      | (?P<count>\{\s*(?P<low>[0-9]*)\s*(?:,\s*(?P<high>[0-9]*)\s*)?\})
      | (?P<bracket>\[\^?\]?|\])
      | (?P<item>\\[pPxuU]\{[^}]*\}|\\.|[^*+?|])""",
    re.VERBOSE | re.DOTALL,
)


class RegexError(ValueError):
    """A pattern the engine refuses; the text is its reason, in one line."""


def compile_regex(pattern: str, *, cased: bool = True) -> Callable[[str], bool]:
    """A function that says whether `pattern` is found anywhere in a text without surrogates.

    Raises RegexError.
    """
    if len(pattern) > PATTERN_LIMIT:
        raise RegexError(f"longer than {PATTERN_LIMIT} characters")
    search = _search(pattern if cased else "(?i)" + pattern)
    if _counted(pattern) > COUNTS_LIMIT:
        raise RegexError(f"its counts come to more than {COUNTS_LIMIT} characters")
    return search


def _search(pattern: str) -> Callable[[str], bool]:
    try:
        return SchemaValidator(
            core_schema.str_schema(pattern=pattern, regex_engine="rust-regex")
        ).isinstance_python
    except SchemaError as error:
        raise RegexError(_reason(str(error))) from None


def _counted(pattern: str) -> int:
    """How much the counts in a pattern, which the engine takes, come to; rather too much than too little.

    Raises RegexError.
    """
    # For each open group, what it has: each written out, and how much of that is by counts.
    groups: list[list[tuple[int, int]]] = [[]]
    brackets = 0
    for token in _TOKEN.finditer(pattern):
        kind, items = token.lastgroup, groups[-1]
        if kind == "bracket":
            brackets = max(0, brackets + (1 if token[0][0] == "[" else -1))
        if brackets:
            continue
        if "x" in (token["flags"] or ""):
            raise RegexError("its flag x, for comments, is not taken")
        if kind == "open" and not token[0].endswith(")"):
            groups.append([])
        elif kind == "close" and len(groups) > 1:
            written, counted = zip(*groups.pop(), (0, 0), strict=True)
            groups[-1].append((sum(written), sum(counted)))
        elif kind == "count" and items:
            times = int(token["high"] or token["low"] or 1) * items.pop()[0]
            items.append((times, times))
        elif kind in ("item", "bracket"):
            items.append((1, 0))
    return sum(counted for items in groups for _, counted in items)


def compile_any(patterns: Iterable[str]) -> Callable[[str], bool]:
    """The same for any of `patterns`, which are this program's own and have no limit."""
    return _search("|".join(patterns))


def compile_wide(patterns: Iterable[str]) -> Callable[[str], bool]:
    """The same for any of `patterns`, which `compile_regex` took; of anything, where they are too big together."""
    try:
        return compile_any(f"(?:{pattern})" for pattern in patterns)
    except RegexError:
        return lambda _text: True


def compile_literals(literals: Iterable[str]) -> Callable[[str], bool]:
    """The same for any of `literals`, in a time that does not grow with their number (Aho and Corasick's)."""
    return _search("|".join(map(escape, literals)))


def escape(text: str) -> str:
    """A pattern for just `text`."""
    return "".join("\\" + c if c in _SPECIAL else c for c in text)


def _reason(report: str) -> str:
    """The last line of the engine's report: those above draw the pattern."""
    line = report.strip().rpartition("\n")[2].strip()
    return line.removeprefix("SchemaError:").strip().removeprefix("error:").strip() or "not understood"
