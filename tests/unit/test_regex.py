# SPDX-License-Identifier: MIT
"""Regular expressions: the same on every host, and no text, however it is chosen, takes longer than it is long."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from procwatchd.rules.redact import Redactor
from procwatchd.rules.regex import COUNTS_LIMIT, PATTERN_LIMIT, RegexError, compile_regex, escape
from tests.unit.test_match import holds, process
from tests.unit.test_match import record as native
from tests.unit.test_sigma import matches, selecting
from tests.unit.test_sigma import record as for_sigma

LONG_BYTES = 128 << 10

# What makes a backtracking engine go through more ways than there are atoms, and its text.
EXPONENTIAL = [
    ("(a+)+$", "a", "!"),
    ("(a|aa)+$", "a", "!"),
    ("(.*a){20}", "b", ""),
    ("(x+x+)+y", "x", ""),
    ("^(([a-z])+.)+[A-Z]([a-z])+$", "a", ""),
    (r"(\w+\s*)+;", "ab ", ""),
    ("(a?){100}a{100}$", "a", "!"),
    ("((a{1,5}){1,5}){1,5}b", "a", ""),
    ("(?:.*=.*){8};", "a=", ""),
]


def seconds(action: Callable[[], object]) -> float:
    """The least CPU time of some runs, in which nobody comes between."""
    times = []
    for _ in range(5):
        started = time.thread_time()
        action()
        times.append(time.thread_time() - started)
    return min(times)


def assert_linear(action: Callable[[str], object], repeated: str, last: str) -> None:
    """Four times the text takes four times as long: far from sixteen times, and what is faster cannot be told."""
    texts = [repeated * (size // len(repeated)) + last for size in (LONG_BYTES // 4, LONG_BYTES)]
    short, long = (seconds(lambda text=text: action(text)) for text in texts)  # type: ignore[misc]
    assert long < 10 * max(short, 0.0005), (short, long)


@pytest.mark.parametrize(("pattern", "repeated", "last"), EXPONENTIAL)
def test_time_grows_with_the_text_alone(pattern: str, repeated: str, last: str) -> None:
    assert_linear(compile_regex(pattern), repeated, last)


def test_where_the_automaton_does_not_fit_it_is_linear_too() -> None:
    """It has a state for each set of places where a b may have been: the engine goes on without it."""
    text = "".join(random.Random(1).choices("ab", k=LONG_BYTES))
    search = compile_regex("[ab]*a[ab]{100}c")
    short, long = seconds(lambda: search(text[: LONG_BYTES // 4])), seconds(lambda: search(text))
    assert long < 10 * short


def test_memory_has_a_limit() -> None:
    text = "".join(random.Random(2).choices("ab", k=LONG_BYTES))
    search = compile_regex("[ab]*a[ab]{100}c")
    before = resident_bytes()
    for n in range(4):
        assert not search(text[n:])
    assert resident_bytes() - before < 32 << 20


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(("pattern", "repeated", "last"), EXPONENTIAL)
def test_wherever_a_pattern_may_be_written(pattern: str, repeated: str, last: str) -> None:
    redactor = Redactor(b"k" * 32, is_builtin=False, patterns=[("own", pattern)])
    assert_linear(lambda text: redactor.redact(text.encode()), repeated, last)
    assert_linear(
        lambda text: holds({"cmdline|re": pattern}, native(process(b"/x", text.encode()))), repeated, last
    )
    rule = selecting({"CommandLine|re": pattern})
    assert_linear(lambda text: matches(rule, for_sigma(argv=text.encode() + b"\0")), repeated, last)


def test_what_one_expects_is_there() -> None:
    for pattern, text in [
        (r"\bcurl\b.*\|\s*(ba|da|z)?sh\b", "x; curl http://a/b | sh -"),
        (r"(?i)PassWord=\S{4,}", "--password=abcd"),
        (r"^[[:alpha:]_]+[[:digit:]]{2}$", "a_b12"),
        (r"(?P<name>é|\x{fc}|\u{4e2d})\p{L}", "中é"),
        (r"(?s)a.b", "a\nb"),
        (r"[a-z&&[^x]]\z", "xy"),
    ]:
        assert compile_regex(pattern)(text)
        assert not compile_regex(pattern)("")


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("(?=a)", "look-around"),
        ("(?!a)b", "look-around"),
        ("(?<=a)b", "look-around"),
        ("(?<!a)b", "look-around"),
        (r"(a)\1", "backreferences"),
        (r"(?P<x>a)(?P=x)", ""),
        ("(?>a)", ""),
        ("(a", "unclosed group"),
        (r"\w{1000}{1000}", "size limit"),
        ("a" * (PATTERN_LIMIT + 1), "longer than"),
        ("(a{1,100}){1,100}b", "counts come to"),
        ("(?:a{0,200}){0,200}$z?y", "counts come to"),
        ("(?i)[^ ]{64,4000}=", "counts come to"),
        (f"[^]}}{{]{{{COUNTS_LIMIT + 1}}}", "counts come to"),
        (f"(?:ab|[]c-e]){{2,{COUNTS_LIMIT // 3 + 1}}}", "counts come to"),
        (r"(?P<x>\x{61}\p{Lu}[[:space:]&&[^ ]]){ 334 }", "counts come to"),
        ("a{600}(?i:b){600}", "counts come to"),
        ("(?x)# [\n(?:a{100}){100}\x01", "flag x"),
        ("(?x)# [\n(?:a{100}){100}\x01#]", "flag x"),
        ("b(?i-sx:a)", "flag x"),
    ],
)
def test_what_is_refused_says_why(pattern: str, why: str) -> None:
    with pytest.raises(RegexError) as refused:
        compile_regex(pattern)
    assert why in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "pattern",
    [
        f"[0-9a-f]{{{COUNTS_LIMIT}}}",
        f"(?:ab|[]c]|[^]]|[a-z&&[^]]]){{{COUNTS_LIMIT // 5}}}",
        r"\{2000\}",
        "[{2000}]",
        r"[\]{2000}]",
        "(?i)x{1,16}(?:y{1,16}|z{2,63})*",
        "abc" * 1000,
        r"(?P<x>a)\(?x\)?[(?x)]",
    ],
)
def test_what_does_not_count_much_is_taken(pattern: str) -> None:
    compile_regex(pattern)


def test_escape_is_exact() -> None:
    every = "".join(map(chr, range(256)))
    assert compile_regex(r"(?s)\A" + escape(every) + r"\z")(every)
