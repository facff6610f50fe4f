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
from bisect import bisect_left
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
    """`pattern` finds it: that group of it which matches, if it has any, else all of it.

    `hint` is a wider one in Rust's syntax, for the text in lower case, so that most texts need not be searched.
    `is_header`: it ends where a word of a shell's does, and goes on to the next quote where that is none.
    """

    kind: str
    hint: str
    pattern: str
    is_header: bool = False


_EDGE = "(?<![A-Za-z0-9_-])"
_HEADER_VALUE = r"([^\s\0\"'\\;&|][^\s\0\"';&|]*+)"
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
        r"password(?:[\s=(]+[enu&]*(?:'|\\?\$\\?\$)|\s+for\s)",
        r"(?i:\bpassword(?:\s{1,4}for\s{1,4}[^\s\0]{1,80})?(?:\s{1,4}(?:=\s{0,4})?|\s?\(\s?)(?:E|N|U&)?)"
        r"(?:'((?:[^'\0]|''){1,256})'|\\?\$\\?\$([^$\0]{1,256}?)\\?\$\\?\$)",
    ),
    _Shape(
        "password",
        r"identified[^\x00]*['\"]",
        r"(?i:\bidentified\s{1,4}(?:with\s{1,4}[^\s\0]{1,40}\s{1,4})?(?:by|as)\s{1,4}(?:password\s{1,4})?)"
        r"(?:'((?:[^'\0]|''){1,256})'|\\?\"([^\"\\\0]{1,256})\\?\")",
    ),
    _Shape(
        "authorization",
        "authorization[\\\"']*[ \t]*[:=]",
        r"(?i:authorization[\"']?[ \t]{0,4}[:=][ \t]{0,4}\\?[\"']?(?:[a-z][a-z0-9-]{1,30}[ \t]{1,4})?)"
        + _HEADER_VALUE,
        is_header=True,
    ),
    _Shape("authorization", "bearer[ \t]+[a-z0-9]", r"(?i:\bbearer[ \t]{1,4})([A-Za-z0-9._~+/-]{8,}+=*+)"),
    _Shape(
        "cookie",
        "cookie:",
        r"(?i:(?<![A-Za-z])(?:set-)?cookie:[ \t]{0,4})" + _HEADER_VALUE,
        is_header=True,
    ),
    _Shape(
        "token",
        "(?:key|token|secret|auth|password|-art-api)[\"']?:",
        r"(?i:(?<![A-Za-z0-9_-])(?:(?:x|ocp)-(?:[a-z0-9]{1,20}-){0,4}(?:key|token|secret|auth|password)|x-jfrog-art-api)"
        r":[ \t]{0,4})" + _HEADER_VALUE,
        is_header=True,
    ),
    _Shape(
        "token", "[\"']auth\\\\?[\"']", r"[\"']auth\\?[\"'][ \t]{0,4}:[ \t]{0,4}\\?[\"']([A-Za-z0-9+/=]{8,}+)"
    ),
    _Shape("token", "private-token:", r"(?i:private-token:[ \t]{0,4})([^\s\0\"']++)"),
    _Shape(
        "url-password",
        r"://[^\x00 /]*:[^\x00 ]*@",
        # What has `/` and the like in it may as well be a port and a path.
        r"://[^\s\0/?#@:'\"\[]{0,256}:(?!x-oauth-basic@)"
        r"([^\s\0/?#'\"]{1,512}|(?![0-9]{0,5}[/?#]|[${%<])[^\s\0'\"@]{1,512})@(?!sha256:)",
    ),
    _Shape(
        "token",
        "://[^\\x00 /:]{8,}(?::(?:x-oauth-basic)?)?@",
        r"://(?:([^\s\0/?#@:'\"]{8,256}):x-oauth-basic|(?=[A-Za-z_-]{0,255}[0-9])([\w-]{20,256}):?)@",
    ),
)
# The other half of an AWS key has no shape of its own, so it is one only beside the first half.
_AWS_SECRET = re.compile(
    rb"(?<![A-Za-z0-9/+=_-])(?=[^\0]{0,39}[0-9])(?=[^\0]{0,39}[A-Z])[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+=_-])"
)

# How names of secrets end. The short ones are words of their own, the long ones may be the end of any.
_LONG_NAMES = (
    "passwords?|passwd|passphrase|passcode|secrets?|tokens?|credentials?|creds|secret[-_](?:string|value|key[-_]base)"
    "|(?:api|access|secret|auth|account|shared|encryption|signing|master|storage|deploy|private|subscription|app)"
    "[-_]?keys?|(?:require|store|key|db|my|root|admin|ssh|user|smtp|ftp|http|proxy|sql|bind|rpc|ldap)(?:pass|pwd)"
    "|(?:basic[-_]|rediscli[-_])auth|(?:github|gitlab|azure|devops|access)[-_]pat"
)
_SHORT_NAMES = "pass|pwd|psk|pw|_auth"
_NUMBER = "(?:[-_]?[0-9]{1,2})?"
_NAME = f"(?:(?i:{_LONG_NAMES})|(?<![A-Za-z])(?i:{_SHORT_NAMES})|(?<=[a-z])(?:Pass|PASS|Pwd|PWD)){_NUMBER}(?![A-Za-z])"
LOWER_NAMES = f"(?:{_LONG_NAMES}|{_SHORT_NAMES}){_NUMBER}"
# Between a name and its value. `:` alone is so for options and before quotes, for others it has blanks behind it. What
# `=` with blanks gives may be code.
_named = re.compile(
    rf"({_NAME})(=|[ \t]{{1,4}}=(?!=)[ \t]{{0,4}}+(?![\w.]{{1,32}}[(\[])|\\?[\"'][ \t]{{0,4}}(?:=>|[:=])[ \t]{{0,4}}"
    r"|\\?[\"'][ \t]{0,4}(?:\][ \t]{0,4}={1,3}|,)[ \t]{0,4}(?=\\?[\"'])"
    r"|:(?:[ \t]{1,4}|(?=[^\s:/])))".encode()
)
_is_name = re.compile(rf"[A-Za-z0-9_./:@-]{{0,128}}{_NAME}".encode()).fullmatch
# With the quotes of a script within a script.
NAMES_HINTS = (
    rf"{LOWER_NAMES}(?:[ \t]*=|[\\\"']+[ \t]*[]:=,]|:[ \t\\\"'])",
    rf"(?:^|[\x00-\x20'\"(;&|`])--?[a-z0-9_./:@-]*{LOWER_NAMES}[\\\"']*[\x00-\x20:]",
    rf"(?:^|[\x00-\x20])/[a-z0-9_.-]*{LOWER_NAMES}:",
)

# What ends like the name of a secret and is none; what takes no value, unless it is in the same argument; and which
# values show that a name is that of something else.
_is_other_name = re.compile(rb"(?:OLD)?PWD").fullmatch
_is_switch = re.compile(
    rb"(?i)-{0,2}(?:(?:no|use|with|without|allow|require|enable|disabled?|ask|prompt|show|reset|skip|force)-.*"
    rb"|askpass|auth-user-pass|(?:list|export|delete)-secret-keys?)|-.*(?:creds|private-key)|-pw"
).fullmatch
_is_of_another = re.compile(
    rb"(?is).*(?:pass=[0-9]{1,3}|tokens=[0-9]{1,9}|pwd=/.*)|-.*auth[-_]token=(?:simple|jwt,[a-z-]+=.*)"
    rb"|(?-i:-.*|[a-z_.]*)(?<![a-z])(?:(?:next|starting|continuation|eos|bos|pad|unk|sep|cls|mask|stop|special|separator"
    rb"|max|min|num|n)[-_](?:tokens?|pass)|(?:low|high|band|all|by|one|two|single|multi|render|debug)[-_]pass)"
    rb"=(?-i:[0-9]{1,9}|[A-Z]?[a-z]{1,12}|<[|/]?[a-z]{1,10}\|?>|\[[A-Z]{1,8}\])"
).fullmatch
# No secret whatever its name: words that switch, rests of patterns, and places where a secret is to be had.
_is_harmless = re.compile(
    rb"(?is:|true|false|yes|no|none|null|nil|on|off|ask|prompt|env|file|[0-9]|[^a-z0-9\x80-\xff]{1,3}|[*./^$]+(?:[a-z]|\{.*)?"
    rb"|%[a-z]|</?[a-z]{1,5}>|\{\{.*|(?:type|id|source)=.*|(?-i:env:[A-Z_][A-Z0-9_]*)|file:[\w.~-]*/[\w./~-]*"
    rb"|@?(?-i:/[a-z][a-z-]{1,15}|~|\.{1,2})/[\w./@-]*|@[\w-]+\.(?:txt|json|ya?ml|toml|ini|conf|cfg|env|key|pem|crt|token))"
).fullmatch
_is_expanded = re.compile(
    rb"\"?(?!\$')(?:\$(?:|[A-Za-z_]\w*|\{[^}]*\}|[0-9@*#?]|\(.*)|`.*)(?:[\"'\s].*)?", re.DOTALL
).fullmatch

# A word of a shell's, with its quotes.
QUOTES = (b'"', b"'", b"\\")
WORD = rb"(?:[^\s;&|()<>`\"'\\\0]++|\\[^\0]|\"(?:[^\"\\\0]++|\\[^\0])*\"?|'[^'\0]*+'?)"
_shell_value = re.compile(WORD + rb"*").match
_quotes = re.compile(rb"\\([^\0])|[\"']")
_to_end = re.compile(rb"[^\0]*+").match
_string = re.compile(
    rb"\\[\"']([^\"'\\\0]*+)(?:\\[\"'])?|\"((?:[^\"\\\0]++|\\[^\0])*)\"?|'([^'\0]*+)'?"
).match
# A list up to its first value, which is quoted, or a mapping that has one; and from a value to the next.
_VALUE_KEY = rb"\\?[\"'](?i:value|data|plain|string|text)\\?[\"']\s{0,4}:\s{0,4}"
_opening = re.compile(rb"\s{0,8}[\[{][\s\[{]{0,8}(?:" + _VALUE_KEY + rb"|(?<!\{))(?=\\?[\"'])").match
_comma = re.compile(rb"\s{0,8},\s{0,8}(?=\\?[\"'])").match
_next_mapping = re.compile(rb"\s{0,8}\}\s{0,8},\s{0,8}\{\s{0,8}" + _VALUE_KEY + rb"(?=\\?[\"'])").match
_quoted = re.compile(rb"\\[^\0]|\"(?:[^\"\\\0]++|\\[^\0])*\"?|'[^'\0]*+'?")
_to_quote = re.compile(rb"[^\0\"'\r\n]*+").match
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

_PATTERNS = tuple((shape, compile_any([shape.hint]), re.compile(shape.pattern.encode())) for shape in _SHAPES)
SHAPES_HINTS = tuple(shape.hint for shape in _SHAPES)
NAME_LOOK_BACK = 64
_BEFORE_OPTION = (b"", b"\0", b" ", b"\n")
_NAME_BYTES = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-"


def lowered(text: bytes) -> str:
    """Arguments as the hints expect them: a character a byte."""
    return text.lower().decode("latin-1")


class _Text:
    """Arguments, and from where to where they are scripts of a shell's."""

    def __init__(self, text: bytes, scripts: list[tuple[int, int]]) -> None:
        self._text = text
        self._scripts = scripts
        self._quoted: list[tuple[int, int]] | None = None

    def is_in_script(self, at: int) -> bool:
        return any(low <= at < high for low, high in self._scripts)

    def quoted_up_to(self, at: int) -> int:
        """Where the quoted text ends that has this place in it, before its last quote; 0: it is not quoted."""
        if self._quoted is None:
            self._quoted = [found.span() for found in _quoted.finditer(self._text) if found[0][:1] != b"\\"]
        index = bisect_left(self._quoted, (at, 0)) - 1
        end = self._quoted[index][1] - 1 if index >= 0 else 0
        return end if at <= end else 0

    def is_bare(self, at: int) -> bool:
        """Whether a blank there ends a word of a shell's."""
        return self.is_in_script(at) and not self.quoted_up_to(at)


def is_secret_name(name: bytes) -> bool:
    """Whether what goes by this name, of a variable or an option with its dashes, is a secret."""
    return _is_name(name) is not None and not _is_other_name(name) and not _is_switch(name)


def is_secret(name: bytes, value: bytes) -> bool:
    """Whether this value, in an argument of its own, is a secret because of this name."""
    return is_secret_name(name) and not _is_of_another(name + b"=" + value[:16])


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


def shaped(text: bytes, scripts: list[tuple[int, int]]) -> Iterator[Secret]:
    """What looks like a secret in arguments. `scripts`: from where to where the text is a shell's."""
    whole = _Text(text, scripts)
    has_aws_key = False
    lower = lowered(text)
    for shape, is_likely, pattern in _PATTERNS:
        for start, end in _places(whole, text, shape, pattern) if is_likely(lower) else ():
            value = text[start:end]
            if not is_harmless(value, in_shell=True):
                has_aws_key |= shape.kind == "aws-key"
                yield Secret(start, end, shape.kind, value)
    if has_aws_key:
        for found in _AWS_SECRET.finditer(text):
            yield Secret(found.start(), found.end(), "aws-key", found[0])


def _places(
    whole: _Text, text: bytes, shape: _Shape, pattern: re.Pattern[bytes]
) -> Iterator[tuple[int, int]]:
    at = 0
    while found := pattern.search(text, at):
        start, end = found.span(found.lastindex or 0)
        if shape.is_header and not whole.is_bare(start) and (rest := _to_quote(text, end)):
            end = rest.end()
        yield start, end
        at = max(end, found.end())


def named(text: bytes, scripts: list[tuple[int, int]]) -> Iterator[Secret]:
    """What is called a secret in arguments, as in NAME=VALUE. `scripts`: from where to where the text is a shell's."""
    whole = _Text(text, scripts)
    at = 0
    while found := _named.search(text, at):
        at = found.end()
        start = _start_of_name(text, found.start())
        name = text[start : found.end(1)]
        in_shell = whole.is_in_script(start)
        # `"password: "; …`: the quote is not the value's.
        is_end = text[at : at + 1] in QUOTES and whole.quoted_up_to(start) == at
        if is_end or not _is_called(text, start, found, in_shell=in_shell):
            continue
        for low, high in _values(text, start, found, in_shell=in_shell):
            value = text[low:high]
            plain = unquoted(value) if in_shell else value
            is_other = is_harmless(value, in_shell=in_shell) or _is_of_another(name + b"=" + plain[:16])
            if plain and not is_other:
                yield Secret(low, high, kind_of(name), plain)
            at = max(at, high)


def _start_of_name(text: bytes, end: int) -> int:
    before = text[max(0, end - NAME_LOOK_BACK) : end]
    return end - len(before) + len(before.rstrip(_NAME_BYTES))


def _is_called(text: bytes, start: int, found: re.Match[bytes], *, in_shell: bool) -> bool:
    """Whether what comes behind a name that begins at `start` is said to be a secret."""
    before, name = text[max(0, start - 2) : start], text[start : found.end(1)]
    # A shell's variable that is used, not set.
    if before == b"${" or (in_shell and before[-1:] == b"$"):
        return False
    if found[2] == b":":
        is_option = name[:1] == b"-" or (before[-1:] == b"/" and before[:-1] in _BEFORE_OPTION)
        if not is_option and text[found.end() : found.end() + 1] not in QUOTES:
            return False
    # `("password", "…"` sets it, or what it is without; in other lists it is a name among names.
    if b"," in found[2] and name[:1] != b"-" and b"(" not in text[max(0, start - 3) : start]:
        return False
    return _is_name(name) is not None and not _is_other_name(name)


def _values(text: bytes, start: int, found: re.Match[bytes], *, in_shell: bool) -> Iterator[tuple[int, int]]:
    """From where to where the values go whose name begins at `start`."""
    at, is_assigned = found.end(), found[2] == b"="
    if is_assigned and text[at : at + 1] == b"=":
        at += 1
    before = text[start - 1 : start] or b"\0"
    strings = [] if is_assigned and (in_shell or before == b"\0") else [*_strings(text, at)]
    if strings:
        yield from strings
        return
    match = _UP_TO.get(before) or (_shell_value if in_shell else _to_end if before == b"\0" else _up_to_blank)
    end = match(text, at)
    yield at, at if end is None else end.end()


def _strings(text: bytes, at: int) -> Iterator[tuple[int, int]]:
    """The quoted text there, or all that a list begins with."""
    opening = _opening(text, at)
    if opening is None:
        separator = None
    else:
        separator, at = _next_mapping if b"{" in opening[0] else _comma, opening.end()
    while found := _string(text, at):
        yield found.span(found.lastindex or 0)
        following = separator and separator(text, found.end())
        if following is None:
            return
        at = following.end()
