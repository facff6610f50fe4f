# SPDX-License-Identifier: MIT
r"""Bytes from other processes as clean text: arguments as one could paste them into bash, and any other value.

What comes out is printable by Unicode's word (`str.isprintable`): no control characters, no line breaks, no
bidi overrides, nothing of zero width, no surrogates. What is not valid UTF-8 or not printable is escaped byte
by byte.

Facts:
- /proc/PID/cmdline ends each argument with a NUL; after setproctitle(3) the last may be missing [proc(5)].
- In $'…' bash takes at most two hexadecimal digits after \x, so that a digit may follow [bash(1), QUOTING].
"""

from __future__ import annotations

import re

from procwatchd.rules.redact import Redactor

# Above this, and outside what stands for invalid bytes, the tables of escapes remember no code point, so that
# nobody can make them grow.
REMEMBERED_CODES = 0x3000

# As the first word bash would take these for its own, and one with = for an assignment, not for a command.
_KEYWORDS = b"case|coproc|do|done|elif|else|esac|fi|for|function|if|in|select|then|time|until|while"
_FIRST_WORD = rb"(?!(?:" + _KEYWORDS + rb")(?:\0|\Z))[A-Za-z0-9_@%+:,./-]+"
_is_clean_first = re.compile(_FIRST_WORD).fullmatch
_is_clean_word = re.compile(rb"[A-Za-z0-9_@%+=:,./-]+").fullmatch
_is_clean_argv = re.compile(_FIRST_WORD + rb"(?:\0[A-Za-z0-9_@%+=:,./\0-]*)?").fullmatch


class _Escapes(dict[int, str | int]):
    r"""For `str.translate`: `\xNN` for each byte of what is not printable, and what is given at the start."""

    def __missing__(self, code: int) -> str | int:
        char = chr(code)
        escape: str | int = code
        if not char.isprintable():
            # A lone surrogate is a byte that was not UTF-8, or else something nobody should have made.
            handler = "surrogateescape" if 0xDC80 <= code <= 0xDCFF else "surrogatepass"
            escape = "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", handler))
        if code < REMEMBERED_CODES or 0xDC80 <= code <= 0xDCFF:
            self[code] = escape
        return escape


_escapes = _Escapes()
_quoted_escapes = _Escapes({ord("'"): "\\'", ord("\\"): "\\\\", ord("\n"): "\\n", ord("\t"): "\\t"})


def printable(value: bytes | str) -> str:
    r"""Any value as printable text: what is not is escaped as `\xNN`, a backslash stays as it is."""
    text = value if isinstance(value, str) else value.decode("utf-8", "surrogateescape")
    return text if text.isprintable() else text.translate(_escapes)


def quote_argv(raw: bytes) -> str:
    """The arguments in /proc/PID/cmdline as a command line for bash, clean printable text.

    At most four times as long as `raw`, and per argument five characters for quotes and space.
    """
    if _is_clean_argv(raw) and b"\0\0" not in raw:
        return raw.rstrip(b"\0").replace(b"\0", b" ").decode()
    if not raw:
        return ""
    first, *rest = raw.removesuffix(b"\0").split(b"\0")
    words = [first.decode() if _is_clean_first(first) else _quote_unclean(first)]
    words += [word.decode() if _is_clean_word(word) else _quote_unclean(word) for word in rest]
    return " ".join(words)


def _quote_unclean(word: bytes) -> str:
    """One argument in the quotes that it needs."""
    text = word.decode("utf-8", "surrogateescape")
    if text.isprintable():
        return "'" + text.replace("'", "'\\''") + "'"
    return "$'" + text.translate(_quoted_escapes) + "'"


def cut_argv(
    raw: bytes, limit: int, full_bytes: int, tail: bytes = b"", redactor: Redactor | None = None
) -> str:
    """The arguments as `quote_argv` has them, the middle left out where they are longer than `limit` bytes.

    `raw` is how the `full_bytes` of arguments begin, `tail` how they end; either may hold all of them. Kept
    are three quarters of the limit from the head and one from the tail; between them stands how many bytes
    are not shown: `cat 'long ar' […2093056 bytes…] 'last'`. The limit counts bytes before they are quoted, and before
    `redactor` hides what is secret.
    """
    full_bytes = max(full_bytes, len(raw))
    if full_bytes == len(raw) and full_bytes <= limit:
        return quote_argv(raw if redactor is None else redactor.redact(raw))
    head_limit, tail_limit = (full_bytes, full_bytes) if full_bytes <= limit else (limit * 3 // 4, limit // 4)
    source = tail if len(raw) < full_bytes else raw
    head = raw[:head_limit]
    # The two may overlap, where little was cut.
    tail_bytes = min(tail_limit, len(source), full_bytes - len(head))
    end = source[len(source) - tail_bytes :]
    if len(head) + len(end) == full_bytes:
        return quote_argv(head + end if redactor is None else redactor.redact(head + end))
    head, end = _without_partial_end(head), _without_partial_start(end)
    left_out = full_bytes - len(head) - len(end)
    if redactor is not None:
        head, end = redactor.redact_cut(raw, len(head), source, len(end))
    return f"{quote_argv(head)} […{left_out} bytes…] {quote_argv(end.removeprefix(bytes(1)))}".rstrip(" ")


def cut_variable(name: str, value: bytes, limit: int, redactor: Redactor) -> bytes:
    """The value of a variable of the environment, without secrets, its end left out after `limit` bytes."""
    if len(value) <= limit:
        return redactor.redact_variable(name, value)
    head = _without_partial_end(value[:limit])
    shown = redactor.redact_variable(name, value, len(head))
    return shown + f" […{len(value) - len(head)} bytes…]".encode()


def _without_partial_end(text: bytes) -> bytes:
    """The bytes without a UTF-8 character that has only begun."""
    for size in range(1, min(3, len(text)) + 1):
        byte = text[-size]
        if 0xC0 <= byte < 0xF8:
            needed = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return text[:-size] if size < needed else text
        if byte < 0x80:
            break
    return text


def _without_partial_start(text: bytes) -> bytes:
    """The bytes without the rest of a UTF-8 character whose start is cut off."""
    for size in range(4):
        # So too where nothing but the rest is left.
        if text[size : size + 1] < b"\x80" or text[size] >= 0xC0:
            return text[size:]
    return text
