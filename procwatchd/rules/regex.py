# SPDX-License-Identifier: MIT
"""Regular expressions whose time grows with the text alone.

Python's `re` backtracks: `(a+)+$` against a long argument, which anybody may choose, would stop the daemon
for good. So patterns go to the engine that pydantic brings along, Rust's regex: finite automata, without
look-around and back-references.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pydantic_core import SchemaError, SchemaValidator, core_schema

# Limits.
PATTERN_LIMIT = 4096  # characters; the engine itself refuses what compiles to more than 10 MiB

_SPECIAL = frozenset(r"\.+*?()|[]{}^$#&-~")


class RegexError(ValueError):
    """A pattern the engine refuses; the text is its reason, in one line."""


def compile_regex(pattern: str, *, cased: bool = True) -> Callable[[str], bool]:
    """A function that says whether `pattern` is found anywhere in a text without surrogates.

    Raises RegexError.
    """
    if len(pattern) > PATTERN_LIMIT:
        raise RegexError(f"longer than {PATTERN_LIMIT} characters")
    return _search(pattern if cased else "(?i)" + pattern)


def _search(pattern: str) -> Callable[[str], bool]:
    try:
        return SchemaValidator(
            core_schema.str_schema(pattern=pattern, regex_engine="rust-regex")
        ).isinstance_python
    except SchemaError as error:
        raise RegexError(_reason(str(error))) from None


def compile_any(patterns: Iterable[str]) -> Callable[[str], bool]:
    """The same for any of `patterns`, which are this program's own and have no limit."""
    return _search("|".join(patterns))


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
