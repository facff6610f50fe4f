# SPDX-License-Identifier: MIT
"""Whatever a process calls itself is clean text here, and bash takes quoted arguments for what they were."""

from __future__ import annotations

import random
import re
import shlex
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from procwatchd.journal import quote
from procwatchd.journal.quote import cut_argv, printable, quote_argv

NUL = b"\0"
NASTY = (
    b") R 1 (",
    b"line\nPRIORITY=0",
    b"\x1b[2J\x07\x7f",
    b"\xff\xfe",
    b"\xc3",
    b"it's",
    b"'",
    b"a\\b",
    b"\\'\n",
    b"",
    b" ",
    b"-n",
    b"$HOME `id` $(id)",
    b"!!",
    b"~",
    b"*",
    b"a=b",
    b"%1",
    b"\x01" + b"1",
    b"\xff" + b"ff",
    "grün 日本".encode(),
    "\u202eevil\u200b".encode(),
    "\u2028\u0085\u00a0".encode(),
    b"\xed\xa0\x80",
)
arguments = st.lists(
    st.binary(max_size=12).map(lambda value: value.replace(NUL, b"")) | st.sampled_from(NASTY), max_size=6
)


def raw(*argv: bytes) -> bytes:
    return b"".join(argument + NUL for argument in argv)


@pytest.mark.parametrize(
    ("value", "quoted"),
    [
        (b"", ""),
        (b"\0", "''"),
        (b"\0\0", "'' ''"),
        (b"ls\0", "ls"),
        (b"ls\0-la\0/tmp\0", "ls -la /tmp"),
        (b"ls\0\0", "ls ''"),
        (b"ls\0\0-l\0", "ls '' -l"),
        (b"\0ls\0", "'' ls"),
        (b"sleep\0inf", "sleep inf"),
        (b"nginx: worker process", "'nginx: worker process'"),
        (b"sh\0-c\0echo it's\0", "sh -c 'echo it'\\''s'"),
        (b"a\0\xff\0", "a $'\\xff'"),
        (b"a\0b\nc\td\0", "a $'b\\nc\\td'"),
        (b"a\0'\\\n\0", "a $'\\'\\\\\\n'"),
        ("ls\0grün\0".encode(), "ls 'grün'"),
        ("ls\0\u202ex\0".encode(), "ls $'\\xe2\\x80\\xaex'"),
        (b"env\0A=b\0", "env A=b"),
        (b"A=b\0ls\0", "'A=b' ls"),
        (b"%1\0", "%1"),
        (b"if\0", "'if'"),
        (b"iffy\0if\0", "iffy if"),
        (b"if\0x y\0", "'if' 'x y'"),
    ],
)
def test_arguments_are_quoted(value: bytes, quoted: str) -> None:
    assert quote_argv(value) == quoted


@given(arguments)
def test_quoted_arguments_are_always_printable(argv: list[bytes]) -> None:
    quoted = quote_argv(raw(*argv))
    assert quoted.isprintable()
    assert len(quoted) <= 4 * sum(map(len, argv)) + 5 * len(argv)


@given(st.lists(st.text(st.characters(exclude_characters="\0")).filter(str.isprintable), min_size=1))
def test_printable_arguments_are_plain_shell(argv: list[str]) -> None:
    assert shlex.split(quote_argv(raw(*(argument.encode() for argument in argv)))) == argv


def test_bash_takes_them_for_what_they_were() -> None:
    rng = random.Random(4711)
    every_byte = [bytes([byte]) for byte in range(1, 256)]
    some = [rng.randbytes(rng.randrange(1, 20)).replace(NUL, b"") for _ in range(500)]
    argv = [*NASTY, *every_byte, *some, *(byte + b"0a" for byte in every_byte)]
    script = f"printf '%s\\0' {quote_argv(raw(*argv))}"
    done = subprocess.run(
        ["/bin/bash", "--norc", "-c", script], env={"LC_ALL": "C.UTF-8"}, capture_output=True, check=True
    )
    assert done.stdout == raw(*argv)


@pytest.mark.parametrize("first", [b"A=b", b"if", b"time", b"while", b"~", b"", b"{", b"!", b"[["])
def test_bash_takes_the_first_word_for_a_command(first: bytes) -> None:
    # Were it an assignment or a keyword, bash would say something else, or nothing.
    done = subprocess.run(
        ["/bin/bash", "--norc", "-c", quote_argv(raw(first, b"x"))],
        env={"PATH": "/nowhere"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 127
    assert re.search(rb"not found|No such file", done.stderr)


def test_escapes_do_not_grow_without_limit() -> None:
    everything = "".join(map(chr, range(0x20000)))
    printable(everything)
    quote_argv(everything.encode("utf-8", "surrogatepass"))
    limit = quote.REMEMBERED_CODES + 128 + 4
    assert len(quote._escapes) <= limit
    assert len(quote._quoted_escapes) <= limit


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"", ""),
        ("", ""),
        (b"plain text", "plain text"),
        (b"back\\slash", "back\\slash"),
        ("grün 日本", "grün 日本"),
        ("grün".encode(), "grün"),
        (b"a\nb\0\x1b\x7f", "a\\x0ab\\x00\\x1b\\x7f"),
        (b"\xff", "\\xff"),
        ("\udcff", "\\xff"),
        ("\ud800", "\\xed\\xa0\\x80"),
        ("\u202e\u200b\u2028\u00a0", "\\xe2\\x80\\xae\\xe2\\x80\\x8b\\xe2\\x80\\xa8\\xc2\\xa0"),
    ],
)
def test_any_value_can_be_shown(value: bytes | str, text: str) -> None:
    assert printable(value) == text


@given(st.binary() | st.text(st.characters(codec=None)))
def test_printable_is_always_printable(value: bytes | str) -> None:
    text = printable(value)
    assert text.isprintable()
    text.encode()


def test_short_arguments_are_not_cut() -> None:
    assert cut_argv(b"ls\0-l\0", 6, 6) == "ls -l"
    assert cut_argv(b"ls\0-l\0", 4096, 6) == "ls -l"
    assert cut_argv(b"", 0, 0) == ""


def test_long_arguments_keep_head_and_tail() -> None:
    value = b"cat\0" + b"x" * 100 + b"\0last\0"
    assert cut_argv(value, 40, len(value)) == f"cat {'x' * 26} […70 bytes…] {'x' * 4} last"


def test_the_tail_may_come_from_elsewhere() -> None:
    head, tail = b"cat\0" + b"x" * 100, b"yyyy\0last\0"
    assert cut_argv(head, 20, 2 << 20, tail) == "cat xxxxxxxxxxx […2097132 bytes…] last"
    assert cut_argv(head, 20, 2 << 20) == "cat xxxxxxxxxxx […2097137 bytes…]"


@pytest.mark.parametrize("start", [0, 100, 150])
def test_head_and_tail_that_meet_or_overlap_are_joined(start: int) -> None:
    value = raw(*(b"%d" % number for number in range(100)))
    assert cut_argv(value[:150], len(value), len(value), value[start:]) == quote_argv(value)


def test_a_gap_within_the_limit_is_told_too() -> None:
    value = raw(*(b"%d" % number for number in range(100)))
    assert "[…50 bytes…]" in cut_argv(value[:150], len(value), len(value), value[200:])


def test_a_character_is_not_split() -> None:
    value = "ä".encode() * 50
    for limit in range(4, 30):
        assert "\\x" not in cut_argv(value, limit, len(value))
        assert "\\x" not in cut_argv(value[: limit * 3 // 4], limit, len(value), value[-(limit // 4) :])
    euros = "€€".encode() + "𝄞".encode() * 20
    for limit in range(8, 60):
        assert "\\x" not in cut_argv(euros, limit, len(euros))


@given(st.binary(max_size=60), st.integers(0, 80), st.integers(0, 80), st.integers(0, 60), st.integers(0, 60))
def test_what_is_cut_adds_up(value: bytes, limit: int, more: int, head: int, tail: int) -> None:
    whole = value + bytes(more)
    text = cut_argv(whole[:head], limit, len(whole), whole[len(whole) - min(tail, len(whole)) :])
    assert text.isprintable()
    cut = re.search(r"\[…(\d+) bytes…\]", text)
    if cut:
        assert 0 < int(cut[1]) <= len(whole)
    if len(whole) > limit:
        assert cut


def test_two_megabytes_of_garbage_stay_within_limits() -> None:
    value = b"\xff" * (2 << 20)
    text = cut_argv(value, 4096, len(value))
    assert len(text) < 4 * 4096 + 50
    assert "[…2093056 bytes…]" in text
