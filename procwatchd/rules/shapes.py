# SPDX-License-Identifier: MIT
r"""What a secret looks like by itself, and what it is called where it has a name.

Everything here is tried on arguments as they are in /proc/PID/cmdline, each ended by NUL, which no secret reaches
across.

Python's `re` is used, as it says where something is. So that its time grows with the length alone, whoever
chooses the text, each pattern either has bounds, or starts where a run of its characters does and does not give back
what it took (`++`, `*+`; of single characters alone: with groups Python 3.11.2 goes wrong).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from procwatchd.rules.regex import compile_any


class Secret(NamedTuple):
    """A secret from `start` up to `end`, and what kind of one it is. `plain` is the secret without quotes."""

    start: int
    end: int
    kind: str
    plain: bytes


class _Shape(NamedTuple):
    """`pattern` finds it: its group where it has one, else all of it.

    `hint` is a wider one in Rust's syntax, for the text in lower case, so that most texts need not be searched.
    """

    kind: str
    hint: str
    pattern: str


_EDGE = "(?<![A-Za-z0-9_-])"
_SHAPES = (
    _Shape(
        "private-key",
        "begin [a-z0-9 ]{0,40}private key",
        r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
        r"[^\0]*?(?:-----END[A-Z0-9 ]{0,60}-----|(?=\0)|\Z)",
    ),
    _Shape("jwt", r"eyj[a-z0-9_-]{8,}\.", _EDGE + r"eyJ[\w-]{8,}+\.[\w-]{8,}+\.[\w-]*+"),
    _Shape(
        "aws-key", "(?:akia|asia)[a-z0-9]{16}", r"(?<![A-Za-z0-9])(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])"
    ),
    _Shape("github-token", "gh[oprsu]_[a-z0-9]{20}", _EDGE + r"gh[oprsu]_[A-Za-z0-9]{20,}+"),
    _Shape("github-token", "github_pat_[a-z0-9_]{20}", _EDGE + r"github_pat_\w{20,}+"),
    _Shape("gitlab-token", "gl[a-z]{2,5}-[a-z0-9_-]{16}", _EDGE + r"gl[a-z]{2,5}-[\w-]{16,}+"),
    _Shape("slack-token", "xox[a-z]-[a-z0-9-]{10}", _EDGE + r"xox[a-z]-[A-Za-z0-9-]{10,}+"),
    _Shape("slack-token", "xapp-[a-z0-9-]{10}", _EDGE + r"xapp-[A-Za-z0-9-]{10,}+"),
    _Shape(
        "slack-token",
        "hooks.slack.com/[a-z]+/",
        r"hooks\.slack\.com/(?:services|workflows|triggers)/([A-Za-z0-9/_-]{10,}+)",
    ),
    _Shape(
        "stripe-key", "[rs]k_(?:live|test)_[a-z0-9]{10}", _EDGE + r"[rs]k_(?:live|test)_[A-Za-z0-9]{10,}+"
    ),
    _Shape("google-key", "aiza[a-z0-9_-]{35}", _EDGE + r"AIza[\w-]{35}"),
    _Shape("google-key", "(?:gocspx-|ya29[.])[a-z0-9_-]{20}", _EDGE + r"(?:GOCSPX-|ya29\.)[\w.-]{20,}+"),
    _Shape("npm-token", "npm_[a-z0-9]{36}", _EDGE + r"npm_[A-Za-z0-9]{36,}+"),
    _Shape("pypi-token", "pypi-[a-z0-9_-]{40}", _EDGE + r"pypi-[\w-]{40,}+"),
    _Shape("vault-token", r"hv[brs]\.[a-z0-9_-]{20}", _EDGE + r"hv[brs]\.[\w-]{20,}+"),
    _Shape(
        "telegram-token",
        "[0-9]{8,10}:[a-z0-9_-]{35}",
        r"(?:\bbot|(?<![\w:.-]))([0-9]{8,10}:[\w-]{35})(?![\w-])",
    ),
    _Shape(
        "azure-key", "(?:account|shared.{0,6})key=", r"(?i:AccountKey|SharedAccessKey)=([^\s\0;&'\"]{16,}+)"
    ),
    _Shape("azure-key", "[?&]sig=", r"[?&]sig=([^\s\0&'\"]{16,}+)"),
    _Shape("api-key", "sk-[a-z0-9_-]{20}", _EDGE + r"sk-[\w-]{20,}+"),
    _Shape("api-key", "hf_[a-z0-9]{30}", _EDGE + r"hf_[A-Za-z0-9]{30,}+"),
    _Shape("api-key", "(?:dop|doo|dor)_v1_[a-f0-9]{32}", _EDGE + r"do[opr]_v1_[a-f0-9]{32,}+"),
    _Shape("api-key", r"sg\.[a-z0-9_-]{16,}\.", _EDGE + r"SG\.[\w-]{16,}+\.[\w-]{16,}+"),
    _Shape(
        "api-key",
        "(?:dckr_pat_|glsa_|shp[a-z]{2}_|pmak-)[a-z0-9_-]{20}",
        _EDGE + r"(?:dckr_pat_|glsa_|shp[a-z]{2}_|PMAK-)[\w-]{20,}+",
    ),
    _Shape("private-key", "age-secret-key-1[a-z0-9]{20}", _EDGE + r"AGE-SECRET-KEY-1[A-Z0-9]{20,}+"),
    _Shape(
        "password",
        "(?:identified|password)[^\\x00]{0,64}'",
        r"(?i:\bidentified\s{1,4}(?:with\s{1,4}\S{1,40}\s{1,4})?(?:by|as)|\bpassword)\s{1,4}"
        r"(?:=\s{0,4})?'([^'\0]{1,256})'",
    ),
    _Shape(
        "authorization",
        "authorization[\"']?[ \t]*[:=]",
        r"(?i:authorization[\"']?[ \t]{0,4}[:=][ \t]{0,4}\\?[\"']?(?:[a-z][a-z0-9-]{1,30}[ \t]{1,4})?)"
        r"([^\s\0\"'\\][^\0\"'\r\n]*+)",
    ),
    _Shape("authorization", "bearer[ \t]+[a-z0-9]", r"(?i:\bbearer[ \t]{1,4})([A-Za-z0-9._~+/-]{8,}+=*+)"),
    _Shape(
        "cookie",
        "cookie:",
        r"(?i:(?<![A-Za-z])(?:set-)?cookie:[ \t]{0,4})([^\s\0\"'][^\0\"'\r\n]*+)",
    ),
    _Shape(
        "token",
        "(?:key|token|secret|auth|password)[\"']?:",
        r"(?i:(?<![A-Za-z0-9_-])x-(?:[a-z0-9]{1,20}-){0,4}(?:key|token|secret|auth|password):[ \t]{0,4})"
        r"([^\s\0\"'][^\0\"'\r\n]*+)",
    ),
    _Shape("token", "private-token:", r"(?i:private-token:[ \t]{0,4})([^\s\0\"']++)"),
    _Shape(
        "url-password", r"://[^\x00 /]*:[^\x00 /]*@", r"://[^\s\0/?#@:'\"]{0,256}:([^\s\0/?#'\"]{1,512})@"
    ),
)
# The other half of an AWS key has no shape of its own, so it is one only beside the first half.
_AWS_SECRET = re.compile(
    rb"(?<![A-Za-z0-9/+=_-])(?=[^\0]{0,39}[0-9])(?=[^\0]{0,39}[A-Z])[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+=_-])"
)

# How names of secrets end. The short ones are words of their own, the long ones may be the end of any.
_LONG_NAMES = (
    "password|passwd|passphrase|passcode|secret|token|credentials?|secret[-_](?:string|value|key[-_]base)"
    "|(?:api|access|secret|auth|account|shared|encryption|signing|master|storage|deploy)[-_]?key"
    "|(?:require|store|key|db|my|root|admin|ssh|user|smtp|ftp|http|proxy|sql|bind|rpc|ldap)(?:pass|pwd)"
)
_SHORT_NAMES = "pass|pwd|psk"
_NUMBER = "(?:[-_]?[0-9]{1,2})?"
_NAME = f"(?:(?i:{_LONG_NAMES})|(?<![A-Za-z])(?i:{_SHORT_NAMES})|(?<=[a-z])(?:Pass|PASS|Pwd|PWD)){_NUMBER}(?![A-Za-z])"
LOWER_NAMES = f"(?:{_LONG_NAMES}|{_SHORT_NAMES}){_NUMBER}"
_named = re.compile(rf"""({_NAME})(=|\\?["'][ \t]{{0,4}}[:=][ \t]{{0,4}}|:[ \t]{{1,4}})""".encode())
_is_name = re.compile(rf"[A-Za-z0-9_./:@-]{{0,128}}{_NAME}".encode()).fullmatch
NAMES_HINTS = (
    rf"{LOWER_NAMES}(?:=|\\?[\"'][ \t]*[:=]|:[ \t])",
    rf"(?:^|[\x00-\x20'\"(;&|`])--?[a-z0-9_./:@-]*{LOWER_NAMES}[\"']?[\x00-\x20]",
)

# What takes no value, though it ends like the name of a secret; and what is a file or a working directory.
_is_switch = re.compile(
    rb"(?i)-{0,2}(?:(?:no|use|with|without|allow|require|enable|disabled?|ask|prompt|show|reset|skip|force)-.*"
    rb"|askpass|auth-user-pass)"
).fullmatch
_is_harmless = re.compile(
    rb"(?i:|true|false|yes|no|none|null|nil|on|off|ask|prompt|-|[*.]+|[0-9]|\{\{.*|(?:type|id)=.*)"
).fullmatch
_is_expanded = re.compile(
    rb"\"?(?:\$(?:|[A-Za-z_]\w*|\{[^}]*\}|[0-9@*#?]|\(.*)|`.*)(?:[\"'\s].*)?", re.DOTALL
).fullmatch

# A word of a shell's, with its quotes.
WORD = rb"(?:[^\s;&|()<>`\"'\\\0]++|\\[^\0]|\"(?:[^\"\\\0]++|\\[^\0])*\"?|'[^'\0]*+'?)"
_shell_value = re.compile(WORD + rb"*").match
_quotes = re.compile(rb"\\([^\0])|[\"']")
_to_end = re.compile(rb"[^\0]*+").match
_escaped_value = re.compile(rb"\\[\"']([^\"'\\\0]*+)").match
_quoted_value = re.compile(rb"\"((?:[^\"\\\0]++|\\[^\0])*)|'([^'\0]*+)").match
# Where a value among others ends, by what stands before its name.
_UP_TO = {
    separator: re.compile(rb"[^\0" + stops + rb"]*+").match
    for separator, stops in (
        (b",", rb",\s"),
        (b"&", rb"&#\s\"'"),
        (b"?", rb"&#\s\"'"),
        (b";", rb";\"'"),
        (b"'", rb"'"),
        (b'"', rb'"'),
    )
}
_up_to_blank = re.compile(rb"[^\0\s;&|<>\"',)}\]]*+").match

_PATTERNS = tuple(
    (shape.kind, compile_any([shape.hint]), re.compile(shape.pattern.encode())) for shape in _SHAPES
)
SHAPES_HINTS = tuple(shape.hint for shape in _SHAPES)
NAME_LOOK_BACK = 64
_NAME_BYTES = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-"


def lowered(text: bytes) -> str:
    """Arguments as the hints expect them: a character a byte."""
    return text.lower().decode("latin-1")


def is_secret_name(name: bytes) -> bool:
    """Whether what goes by this name, of a variable or an option with its dashes, is a secret."""
    return _is_name(name) is not None and not _is_switch(name) and name not in (b"PWD", b"OLDPWD")


def kind_of(name: bytes) -> str:
    """The kind of secret that has such a name."""
    lower = name.lower()
    if b"token" in lower:
        return "token"
    if b"key" in lower and b"pass" not in lower:
        return "key"
    return "secret" if b"secret" in lower or b"credential" in lower else "password"


def is_harmless(value: bytes, *, in_shell: bool = False) -> bool:
    """Whether a value is no secret whatever its name: empty, a switch, or for a shell yet to be filled in."""
    return _is_harmless(value) is not None or (in_shell and _is_expanded(value) is not None)


def unquoted(word: bytes) -> bytes:
    """A shell's word without its quotes and backslashes."""
    return _quotes.sub(rb"\1", word)


def shaped(text: bytes) -> Iterator[Secret]:
    """What looks like a secret in arguments."""
    has_aws_key = False
    lower = lowered(text)
    for kind, is_likely, pattern in _PATTERNS:
        for found in pattern.finditer(text) if is_likely(lower) else ():
            group = found.lastindex or 0
            value = found[group]
            if not is_harmless(value, in_shell=True):
                has_aws_key |= kind == "aws-key"
                yield Secret(found.start(group), found.end(group), kind, value)
    if has_aws_key:
        for found in _AWS_SECRET.finditer(text):
            yield Secret(found.start(), found.end(), "aws-key", found[0])


def named(text: bytes, shells: list[tuple[int, int]]) -> Iterator[Secret]:
    """What is called a secret in arguments, as in NAME=VALUE. `shells`: from where to where the text is a shell's."""
    at = 0
    while found := _named.search(text, at):
        at = found.end()
        start = _start_of_name(text, found.start())
        name = text[start : found.end(1)]
        if not is_secret_name(name.lstrip(b"-")) or text[start - 1 : start] in (b"$", b"{"):
            continue
        in_shell = any(low <= start < high for low, high in shells)
        value_start, value_end = _value(text, start, found, in_shell=in_shell)
        value = text[value_start:value_end]
        plain = unquoted(value) if in_shell else value
        if not is_harmless(value, in_shell=in_shell) and plain and not _is_directory(name, value):
            yield Secret(value_start, value_end, kind_of(name), plain)
        at = max(at, value_end)


def _start_of_name(text: bytes, end: int) -> int:
    before = text[max(0, end - NAME_LOOK_BACK) : end]
    return end - len(before) + len(before.rstrip(_NAME_BYTES))


def _is_directory(name: bytes, value: bytes) -> bool:
    return name.lower().endswith(b"pwd") and value.startswith(b"/")


def _value(text: bytes, start: int, found: re.Match[bytes], *, in_shell: bool) -> tuple[int, int]:
    """From where to where the value goes whose name begins at `start`."""
    at, is_assigned = found.end(), found[2] == b"="
    if is_assigned and text[at : at + 1] == b"=":
        at += 1
    before = text[start - 1 : start] or b"\0"
    if not is_assigned or not (in_shell or before == b"\0"):
        quoted = _escaped_value(text, at) or _quoted_value(text, at)
        if quoted:
            return quoted.span(quoted.lastindex or 0)
    match = _UP_TO.get(before) or (_shell_value if in_shell else _to_end if before == b"\0" else _up_to_blank)
    end = match(text, at)
    return at, at if end is None else end.end()
