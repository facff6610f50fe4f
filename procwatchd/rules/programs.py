# SPDX-License-Identifier: MIT
"""Which programs take secrets where: by what option, or as which word.

What is short, like -p, is a password for one program and a port for the next, so that each has a line of its own.
Options that are called password and the like need none: rules/shapes.py knows them for all programs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from procwatchd.rules.shapes import LOWER_NAMES, is_secret_name


class Word(NamedTuple):
    """An argument, or a word of a shell's without the quotes around all of it; `start` is where its text begins."""

    text: bytes
    start: int


class Place(NamedTuple):
    """Where a secret is, and its kind."""

    start: int
    end: int
    kind: str


@dataclass(frozen=True, slots=True)
class Way:
    """One way in which a program takes secrets.

    `find` gives them in a command, whose first word is the program. `hint` is a regular expression in Rust's syntax
    for the rest of the command in lower case, found wherever `find` finds anything.
    """

    find: Callable[[list[Word]], Iterator[Place]]
    hint: str


def _split(names: str) -> frozenset[bytes]:
    return frozenset(names.encode().split())


def _place(word: Word, at: int, behind: bytes, kind: str) -> Iterator[Place]:
    """The secret from `at` on in a word, what comes after `behind` if that is not empty."""
    if behind:
        found = word.text.find(behind, at)
        if found < 0:
            return
        at = found + len(behind)
    if at < len(word.text):
        yield Place(word.start + at, word.start + len(word.text), kind)


def _option(
    names: str, *, behind: str = "", kind: str = "password", flags: str | None = "", after: str = ""
) -> Way:
    """By any of these options, in the same argument or as the next one.

    `behind`: only what comes behind that in the value. `flags` are letters that may stand before that of an option in
    one argument; None: all arguments are options of their own. `after`: only behind one of these words.
    """
    known, letters, needed = _split(names), flags, _split(after)

    def find(words: list[Word]) -> Iterator[Place]:
        is_there = not needed
        for at, word in enumerate(words):
            if not is_there:
                is_there = word.text in needed
                continue
            value_at = _value_at(word.text, known, letters)
            if value_at == len(word.text) and at + 1 < len(words):
                yield from _place(words[at + 1], 0, behind.encode(), kind)
            elif value_at is not None:
                yield from _place(word, value_at, behind.encode(), kind)

    hints = [re.escape(name.lower()) for name in names.split()]
    if flags is not None:
        hints += [f"-[a-z0-9#]*{name[1]}".lower() for name in names.split() if len(name) == 2]
    return Way(find, rf"[\x00-\x20'\"](?:{'|'.join(hints)})")


def _value_at(text: bytes, known: frozenset[bytes], flags: str | None) -> int | None:
    """Where in an argument the value of one of the known options begins; at its end: in the next. None: not here."""
    if text in known:
        return len(text)
    if text[:2] == b"--":
        name, separator, _ = text.partition(b"=")
        return len(name) + 1 if separator and name in known else None
    if text[:1] != b"-" or flags is None:
        return None
    for at in range(1, len(text)):
        if b"-" + text[at : at + 1] in known:
            return at + 1
        if chr(text[at]) not in flags:
            break
    return None


def _attached(names: str) -> Way:
    """By these options, in the same argument alone: without one they ask."""
    known = tuple(names.encode().split())

    def find(words: list[Word]) -> Iterator[Place]:
        for word in words:
            for name in known:
                if word.text.startswith(name):
                    yield from _place(word, len(name), b"", "password")

    return Way(find, rf"[\x00-\x20'\"](?:{'|'.join(names.lower().split())})[^\x00]")


def _word(
    index: int,
    after: str = "",
    *,
    letter: str = "",
    valued: str = "",
    behind: str = "",
    kind: str = "password",
) -> Way:
    """As the word with this number (-1: the last) behind these, whose case and place does not matter.

    Options are not counted, nor what comes next to those that are `valued`. A word in `after` may end in `*`.
    `letter`: where that is among the options. `behind`: only what comes behind that in the word.
    """
    needed = [word.partition(b"*") for word in after.encode().split()]
    takes_next = _split(valued)

    def are_there(plain: list[Word]) -> bool:
        texts = [word.text.lower() for word in plain]
        return len(texts) == len(needed) and all(
            text.startswith(start) if star else text == start
            for text, (start, star, _) in zip(texts, needed, strict=True)
        )

    def find(words: list[Word]) -> Iterator[Place]:
        plain = [
            word
            for before, word in pairwise(words)
            if word.text[:1] != b"-" and before.text not in takes_next
        ]
        options = b"".join(word.text for word in words if word.text.startswith(b"-"))
        count = len(needed)
        places = range(len(plain) - count + 1) if letter.encode() in options else ()
        at = next((at + count for at in places if are_there(plain[at : at + count])), len(plain))
        rest = plain[at:]
        if -len(rest) <= index < len(rest):
            yield from _place(rest[index], 0, behind.encode(), kind)

    hints = (re.escape(word.removesuffix("*")) for word in after.split())
    return Way(find, "".join(rf"[\x00-\x20'\"]{word}(?s:.*)" for word in hints))


def _behind_name(after: str = "") -> Way:
    """As the word behind one that is called password and the like, and behind one of `after`."""
    needed = _split(after)

    def find(words: list[Word]) -> Iterator[Place]:
        is_there = not needed
        for at, word in enumerate(words[:-1]):
            if is_there and word.text[:1] != b"-" and is_secret_name(word.text):
                yield from _place(words[at + 1], 0, b"", "password")
            is_there = is_there or word.text in needed

    return Way(find, rf"{LOWER_NAMES}['\"]?[\x00-\x20]")


def _assigned(after: str) -> Way:
    """As what is assigned to any name, behind one of these words."""
    needed = _split(after)

    def find(words: list[Word]) -> Iterator[Place]:
        is_there = False
        for word in words:
            name, _, value = word.text.partition(b"=")
            if is_there and not name.startswith(b"-") and not value.startswith(b"@"):
                yield from _place(word, 0, b"=", "secret")
            is_there = is_there or word.text in needed

    return Way(find, rf"[\x00-\x20'\"](?:{'|'.join(after.lower().split())})[\x00-\x20'\"](?s:.*)=")


def _within(pattern: str, hint: str) -> Way:
    """As the group of this expression, in any word."""
    search = re.compile(pattern.encode()).search

    def find(words: list[Word]) -> Iterator[Place]:
        for word in words[1:]:
            if found := search(word.text):
                yield Place(word.start + found.start(1), word.start + found.end(1), "password")

    return Way(find, hint)


_MYSQL = (
    "mysql mysqladmin mysqlbinlog mysqlcheck mysqldump mysqlimport mysqlpump mysqlshow mysqlslap mysql_upgrade mysqlsh "
    "mariadb mariadb-admin mariadb-backup mariadb-binlog mariadb-check mariadb-dump mariadb-import mariadb-show "
    "mariadb-slap mariadb-upgrade mariabackup xtrabackup mytop"
)
_CURL_FLAGS = "#0123456afgGiIjJklLMnNOpqRsSvZ"
_LDAP_FLAGS = "xnvcLZMACWuFtT"
_LINES: dict[str, tuple[Way, ...]] = {
    _MYSQL: (_attached("-p"),),
    "mysqlsh": (_within(r"^[\w.-]{1,64}:([^@\s]{1,128})@", ":(?s:.*)@"),),
    "7z 7za 7zr 7zz": (_attached("-p"),),
    "rar unrar": (_attached("-p -hp"),),
    "xfreerdp xfreerdp3 wlfreerdp": (_attached("/p: /password: /gp:"),),
    "curl": (
        _option("-u --user -U --proxy-user -E --cert", behind=":", flags=_CURL_FLAGS),
        _option("-b --cookie", behind="=", kind="cookie", flags=_CURL_FLAGS),
        _option("--oauth2-bearer", kind="token", flags=None),
    ),
    "http https xh xhs": (_option("-a --auth", behind=":"),),
    "ab": (_option("-A -P", behind=":"),),
    "etcdctl": (_option("--user", behind=":"), _word(0, "user add", behind=":")),
    "lftp": (_option("-u --user", behind=","),),
    "smbclient smbget smbcacls smbtree rpcclient net winexe": (_option("-U --user", behind="%"),),
    "smbclient": (
        _word(0, "//*", valued="-U --user -A -c -d -D -e -I -i -l -L -m -M -n -O -p -R -s -S -t -T -W"),
    ),
    "smbpasswd": (_word(1, valued="-c -D -r -U"),),
    "samba-tool": (_word(1, "user create"), _word(1, "user add")),
    "wbinfo": (_option("-a --authenticate", behind="%"),),
    "skopeo buildah podman": (_option("--creds --src-creds --dest-creds", behind=":", flags=None),),
    "docker podman nerdctl helm oras crane regctl oc cf twine poetry az": (
        _option("-p", after="login upload publish"),
    ),
    "kubectl": (_option("--from-literal", behind="=", kind="secret", flags=None),),
    "gh": (_option("-b --body", after="secret", kind="secret"),),
    "sshpass": (_option("-p", flags="ev"),),
    "redis-cli valkey-cli keydb-cli": (
        _option("-a"),
        _word(-1, "auth"),
        _word(0, "config set requirepass"),
        _word(0, "config set masterauth"),
    ),
    "ldapsearch ldapadd ldapmodify ldapdelete ldapcompare ldapmodrdn ldapexop ldapwhoami": (
        _option("-w", flags=_LDAP_FLAGS),
    ),
    "slappasswd": (_option("-s"),),
    "kadmin kadmin.local": (
        _option("-w", flags=None),
        _within(r"-pw\s{1,4}([^\s\"']{1,128})", r"(?s:.*)-pw\s"),
    ),
    "plink pscp psftp kadmin kadmin.local": (_option("-pw", flags=None),),
    "ldappasswd": (_option("-w -s -a", flags=_LDAP_FLAGS),),
    "openssl": (
        _option("-passin -passout -pass -password", behind="pass:", flags=None),
        _option("-k -K -hmac -psk", kind="key", flags=None),
        _option("-macopt", behind="key:", kind="key", flags=None),
        _word(-1, "passwd"),
    ),
    "mongo mongosh mongodump mongorestore mongoexport mongoimport mongostat mongotop mongofiles cqlsh cypher-shell "
    "mydumper myloader rabbitmqadmin openfortivpn crackmapexec nxc evil-winrm hydra rdesktop hdbsql doveadm ncftpput": (
        _option("-p"),
    ),
    "sqlcmd bcp osql tsql zip zipcloak unzip ipmitool mosquitto_pub mosquitto_sub": (
        _option("-P", flags="rqjom"),
    ),
    "mongo mongosh": (
        _within(
            r"\bauth\(\s{0,4}[\"'][^\"']{0,128}[\"']\s{0,4},\s{0,4}[\"']([^\"']{1,128})", r"(?s:.*)auth\("
        ),
    ),
    "vsql": (_option("-w"),),
    # NAME/PASSWORD@PLACE
    "sqlplus sqlldr expdp impdp exp imp rman": (
        _within(r"^(?:userid=)?[A-Za-z_][\w$#]{0,63}/([^/@\s]{1,128})(?=[@\s]|\Z)", "/"),
    ),
    "ssh-keygen": (_option("-N -P"),),
    "swaks": (_option("-ap", flags=None),),
    "sendemail sendEmail": (_option("-xp", flags=None),),
    "snmpget snmpwalk snmpset snmpbulkget snmpbulkwalk snmptrap": (_option("-A -X -c"),),
    "useradd usermod": (_option("-p"),),
    "pdftotext pdfimages pdfinfo pdftoppm": (_option("-upw -opw", flags=None),),
    "pdftk": (_option("input_pw owner_pw user_pw", flags=None),),
    "htpasswd": (_word(-1, letter="b"),),
    "wpa_passphrase": (_word(1),),
    "isql": (_word(2),),
    "mkpasswd": (_word(0, valued="-m --method -S --salt -R --rounds -P --password-fd"),),
    "mosquitto_passwd": (_word(-1, letter="b"),),
    "chpasswd": (_word(0, behind=":"),),
    "rclone": (_word(0, "obscure"), _behind_name("create update")),
    "rabbitmqctl": (_word(1, "add_user"), _word(1, "change_password"), _word(1, "authenticate_user")),
    "ngrok": (_word(0, "authtoken", kind="token"), _word(0, "config add-authtoken", kind="token")),
    "vault": (
        _word(0, "login", kind="token"),
        _word(0, "unseal", kind="key"),
        _word(0, "unwrap", kind="token"),
        _assigned("put patch"),
    ),
    "mc": (
        _word(3, "alias set", kind="key"),
        _word(3, "config host add", kind="key"),
        _word(2, "admin user add", kind="key"),
    ),
    "pulumi": (_word(1, "config set"),),
    "cf": (_word(2, "set-env", kind="secret"),),
    "cargo": (_word(0, "login", valued="--registry", kind="token"),),
    "poetry": (_word(0, "config pypi-token*", kind="token"),),
    "poetry composer": (_word(1, "config http-basic*"), _word(0, "config github-oauth*", kind="token")),
    "grafana-cli grafana": (_word(0, "reset-admin-password"),),
    "neo4j-admin": (_word(0, "set-initial-password"),),
    "gitlab-runner": (_option("-r", after="register", kind="token"),),
    "ansible-vault": (
        _word(0, "encrypt_string", valued="--vault-id --vault-password-file --name -n", kind="secret"),
    ),
    "aws": (_option("--value", after="put-parameter", kind="secret", flags=None),),
    "az": (_option("--value", after="secret", kind="secret", flags=None),),
    "heroku dokku": (_assigned("config:set"),),
    "flyctl fly doppler": (_assigned("set"),),
    "nmcli pppd mysqladmin mariadb-admin": (_behind_name(),),
    "aws npm pnpm yarn": (_behind_name("set"),),
}
PROGRAMS: dict[bytes, tuple[Way, ...]] = {}
for _names, _ways in _LINES.items():
    for _name in _split(_names):
        PROGRAMS[_name] = PROGRAMS.get(_name, ()) + _ways

# Whose options called password ask for it, or say what its value is: it is not the next argument.
ASKING = _split(_MYSQL) | _split("openssl pulumi")

# They are given secrets on their standard input.
_STDIN_OPTIONS = _split("--password-stdin --stdin --pass-stdin --with-token stdin")
_READERS = _split("chpasswd passwd smbpasswd cryptsetup kinit")
_PRINTERS = _split("echo printf yes")


def takes_from_pipe(words: list[Word]) -> bool:
    """Whether a command reads a secret where another one's output goes."""
    texts = [word.text for word in words]
    names = [text.rpartition(b"/")[2] for text in texts]
    if _STDIN_OPTIONS & {*texts} or (b"--passphrase-fd", b"0") in pairwise(texts):
        return True
    if names[0] != b"sudo":
        return names[0] in _READERS
    return bool(_READERS & {*names}) or any(re.match(rb"-[A-Za-z]*S", text) for text in texts)


def printed(words: list[Word]) -> Iterator[Place]:
    """What a command prints that is piped into such a one."""
    if words[0].text in _PRINTERS:
        for word in words[1:]:
            if not word.text.startswith((b"-", b"%", b"$")):
                yield from _place(word, word.text.find(b":") + 1, b"", "password")


_BORDER = r"(?:^|[\x00-\x20/'\"(;&|`\\])"
_PIPE_HINT = (
    r"(?:echo|printf|yes)[^\x00|]*\|[^\x00]*"
    r"(?:passwd|cryptsetup|kinit|stdin|--with-token|-fd|sudo[^\x00]*-[a-z]*s)"
)
HINTS = (
    *(
        rf"{_BORDER}(?:{'|'.join(map(re.escape, names.lower().split()))})(?:[\x00-\x20'\"<>](?s:.*))?(?:{way.hint})"
        for names, ways in _LINES.items()
        for way in ways
    ),
    _PIPE_HINT,
)
