# SPDX-License-Identifier: MIT
r"""From CMDLINE in an entry back to what `cmdline` means in a rule: the arguments joined by single spaces.

Facts:
- Entries have arguments as bash takes them: bare, as 'it'\''s', or as $'\xff\n' [journal/quote.py].
- What was cut has `[…NUMBER bytes…]` in place of its middle, what was secret `<redacted:NAME:HASH>`. An argument that
  looks like either has it within quotes, where it cannot be told from ours.
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
    if _CUT.search(text):
        return "it is cut"
    return ""


def unquote(text: str) -> bytes | None:
    """The arguments that `text` shows, joined by single spaces; None where it is in no such form."""
    if not text.isprintable():
        return None
    parts: list[bytes] = []
    at = 0
    while at < len(text):
        found = _PIECE.match(text, at)
        if found is None:
            return None
        escaped, *others = found.groups()
        parts.append(_plain(escaped) if escaped is not None else "".join(filter(None, others)).encode())
        at = found.end()
    return b"".join(parts)


def _plain(escaped: str) -> bytes:
    return _ESCAPE.sub(
        lambda found: bytes([int(found[1], 16)]) if found[1] else _LETTERS.get(found[2], found[2]),
        escaped.encode(),
    )
