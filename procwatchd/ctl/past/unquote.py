# SPDX-License-Identifier: MIT
r"""From CMDLINE in an entry back to what `cmdline` means in a rule: the arguments joined by single spaces.

Facts:
- Entries have arguments as bash takes them: bare, as 'it'\''s', or as $'\xff\n' [journal/quote.py].
- What was cut has `[…NUMBER bytes…]` in place of its middle, bare; an argument that looks like it is in quotes.
- What was secret has `<redacted:NAME:HASH>`, within quotes, where it cannot be told from an argument's own.
"""

from __future__ import annotations

import re

_PIECE = re.compile(r"\$'((?:[^'\\]|\\.)*)'|'([^']*)'|\\(')|([^'\\$]+)", re.DOTALL)
_ESCAPE = re.compile(rb"\\(?:x([0-9a-f]{2})|(.))", re.DOTALL)
_LETTERS = {b"n": b"\n", b"t": b"\t"}
_CUT = re.compile(r"\[…[0-9]+ bytes…\]")
_REDACTED = "<redacted:"


def why_hidden(text: str) -> str:
    """Why a command line does not say what the arguments were; "" where it does."""
    if _REDACTED in text:
        return "a secret in it is hidden"
    return "it is cut" if is_cut(text) else ""


def is_cut(text: str) -> bool:
    """Whether the middle of a command line is not there."""
    if _CUT.search(text) is None:
        return False
    pieces = _pieces(text)
    return pieces is None or any(is_bare and _CUT.search(piece.decode()) for piece, is_bare in pieces)


def unquote(text: str) -> bytes | None:
    """The arguments that `text` shows, joined by single spaces; None where it is in no such form."""
    pieces = _pieces(text)
    return None if pieces is None else b"".join(piece for piece, _ in pieces)


def words_of(text: str) -> list[str] | None:
    r"""The arguments that `text` shows, each with `\xff` for what is not UTF-8; None where it is in no such form."""
    pieces = _pieces(text)
    if pieces is None:
        return None
    words = [b""]
    for piece, is_bare in pieces:
        first, *others = piece.split(b" ") if is_bare else [piece]
        words[-1] += first
        words += others
    return [word.decode("utf-8", "backslashreplace") for word in words]


def _pieces(text: str) -> list[tuple[bytes, bool]] | None:
    """What `text` is made of, each without its quotes, and whether it had none."""
    if not text.isprintable():
        return None
    pieces: list[tuple[bytes, bool]] = []
    at = 0
    while at < len(text):
        found = _PIECE.match(text, at)
        if found is None:
            return None
        escaped, quoted, quote, bare = found.groups()
        plain = _plain(escaped) if escaped is not None else (quoted or quote or bare or "").encode()
        pieces.append((plain, bare is not None))
        at = found.end()
    return pieces


def _plain(escaped: str) -> bytes:
    return _ESCAPE.sub(
        lambda found: bytes([int(found[1], 16)]) if found[1] else _LETTERS.get(found[2], found[2]),
        escaped.encode(),
    )
