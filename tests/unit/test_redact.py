# SPDX-License-Identifier: MIT
"""Secrets do not come out, all else does, and it takes no longer than the text is long."""

from __future__ import annotations

import re
import shlex
import time
from pathlib import Path

import pytest

from procwatchd.journal.build import EntryBuilder
from procwatchd.journal.entry import FieldValue
from procwatchd.journal.quote import cut_argv, quote_argv
from procwatchd.kernel.clock import Clock
from procwatchd.process.model import UNKNOWN_CONTEXT, Image, Process, Record
from procwatchd.rules.redact import Redactor
from procwatchd.rules.ruleset import Decision
from procwatchd.rules.template import parse_template

CORPUS = Path(__file__).parents[1] / "data/command-lines.txt"
KEY = b"k" * 32
SECRET = re.compile("«([a-z-]+):([^»|]*)(?:\\|([^»]*))?»")


def lines() -> list[str]:
    found = CORPUS.read_text(encoding="utf-8").replace("·", "").splitlines()
    return [line.replace("␤", "\n") for line in found if line and not line.startswith("#")]


def raw(*arguments: str) -> bytes:
    return b"".join(argument.encode() + b"\0" for argument in arguments)


def mark(kind: str, secret: str, redactor: Redactor | None = None) -> str:
    """The mark of a secret, as a variable of the environment has it."""
    text = (redactor or Redactor(KEY)).redact_variable("PASSWORD", secret.encode()).decode()
    assert text.startswith("<redacted:password:"), "what is harmless has no mark"
    return text.replace(":password:", f":{kind}:")


def read(line: str) -> tuple[list[str], list[str]]:
    """The arguments of a line of the corpus, and what must be shown of them."""
    secrets = [*SECRET.finditer(line)]
    places = iter(range(len(secrets)))
    words = shlex.split(SECRET.sub(lambda _: f"\x01{next(places)}\x02", line))

    def filled(word: str, texts: list[str]) -> str:
        return re.sub("\x01(\\d+)\x02", lambda place: texts[int(place[1])], word)

    plain = [found[2] for found in secrets]
    marks = [mark(found[1], found[2] if found[3] is None else found[3]) for found in secrets]
    return [filled(word, plain) for word in words], [filled(word, marks) for word in words]


def process(argv: bytes, full_bytes: int | None = None, tail: bytes = b"") -> Process:
    image = Image(b"/bin/x", argv, len(argv) if full_bytes is None else full_bytes, tail, "same")
    return Process(10, 5, None, 1, b"x", image, UNKNOWN_CONTEXT, None)


def builder(redactor: Redactor | None = None, max_argv_bytes: int = 4096) -> EntryBuilder:
    return EntryBuilder(Clock(), "all", max_argv_bytes, redactor or Redactor(KEY))


@pytest.mark.parametrize("line", lines())
def test_the_corpus(line: str) -> None:
    argv, shown = read(line)
    assert builder().command(process(raw(*argv))) == quote_argv(raw(*shown))


# In a script, two words may also be what somebody says: `echo password: x`.
ONLY_AS_ARGUMENTS = {"grep -r password: /etc"}


@pytest.mark.parametrize("line", [line for line in lines() if line not in ONLY_AS_ARGUMENTS])
def test_the_corpus_within_a_script(line: str) -> None:
    """But for quotes: a mark may take one of a pair with it."""
    argv, shown = read(line)
    script = Redactor(KEY).redact(raw("sh", "-c", shlex.join(argv))).decode().split("\0")[2]
    without_quotes = str.maketrans("", "", "'\"\\")
    assert script.translate(without_quotes) == shlex.join(shown).translate(without_quotes)


def test_the_corpus_has_secrets_and_false_friends_enough() -> None:
    with_secrets = [line for line in lines() if SECRET.search(line)]
    assert len(with_secrets) >= 100
    assert len(lines()) - len(with_secrets) >= 50


def test_the_same_secret_has_the_same_mark_everywhere() -> None:
    marks = {
        re.findall(r"<redacted:[a-z-]+:([0-9a-f]{8})>", builder().command(process(raw(*argv))) or "")[0]
        for argv in (("mysql", "-phunter2"), ("x", "--token=hunter2"), ("sh", "-c", "redis-cli -a 'hunter2'"))
    }
    assert len(marks) == 1
    assert mark("password", "hunter2") != mark("password", "hunter3")


def test_without_the_key_nobody_can_tell() -> None:
    other = Redactor(b"o" * 32)
    assert mark("password", "hunter2", other) != mark("password", "hunter2")
    assert mark("password", "hunter2", Redactor(KEY)) == mark("password", "hunter2")


def entry_of(child: Process, template: str | None = None) -> dict[str, FieldValue]:
    """The fields of an exec's entry."""
    record = Record("exec", child, 0, "proc", "same", environment={"TOKEN": b"abc", "A": b"-ptops3cret"})
    text = None if template is None else parse_template(template)
    made = builder().build(record, Decision("log", None, 6, message=text))
    return made.fields | {name: value for part in made.shared for name, value in part.fields.items()}


@pytest.mark.parametrize("template", [None, "{cmdline} {parent-cmdline} {parent.cmdline}"])
def test_no_field_of_an_entry_has_a_secret(template: str | None) -> None:
    parent, child = process(raw("mysql", "-phunter2")), process(raw("mysqldump", "--password=hunter2"))
    child.parent = parent
    fields = entry_of(child, template)
    hidden = mark("password", "hunter2")
    assert fields["PROCWATCH_CMDLINE"] == f"mysqldump '--password={hidden}'"
    assert fields["PROCWATCH_PARENT_CMDLINE"] == f"mysql '-p{hidden}'"
    assert "hunter2" not in repr(fields)
    assert hidden in str(fields["MESSAGE"])


def test_variables_of_the_environment() -> None:
    fields = entry_of(process(raw("true")))
    assert fields["PROCWATCH_ENV_TOKEN"] == mark("token", "abc").encode()
    assert fields["PROCWATCH_ENV_A"] == b"-ptops3cret"
    redact = Redactor(KEY).redact_variable
    assert redact("PWD", b"/srv") == b"/srv"
    for name in ("CREDS", "SSH_PRIVATE_KEY", "REDISCLI_AUTH", "npm_config__auth", "GITHUB_PAT", "DB_PW"):
        assert redact(name, b"tops3cret").startswith(b"<redacted:"), name
    for name in ("ALL_PASS", "ONE_PASS", "MIN_PASS", "N_TOKEN", "NEXT_TOKEN"):
        assert redact(name, b"tops3cret").startswith(b"<redacted:"), name
    for name in ("OLDPWD", "PASSWORD_FILE", "SSH_ASKPASS", "TOKENIZER"):
        assert redact(name, b"tops3cret") == b"tops3cret", name
    assert redact("DB_PASSWORD", b"/run/secrets/db") == b"/run/secrets/db"
    assert redact("SSH_CONNECTION", b"10.0.0.1 5 10.0.0.2 22") == b"10.0.0.1 5 10.0.0.2 22"
    assert redact("URL", b"redis://:x1y2@h") == b"redis://:" + mark("url-password", "x1y2").encode() + b"@h"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("/usr/bin/mysql -uroot -p«password:hunter2» shop", None),
        ("docker login -u ann -p «password:hunter2»", None),
        ("sh -c 'redis-cli -a «password:hunter2»'", None),
        (
            "PGPASSWORD=«password:hunter2» psql",
            "PGPASSWORD=«password:hunter2 psql»",
        ),  # as it is in an argument
        ("password=«password:a b»", None),
        ("tool --password=«password:hunter2» -p 80", None),
        ("rsync --server -p . /srv", None),
        ("-phunter2", None),
    ],
)
def test_a_variable_may_hold_a_command(value: str, shown: str | None) -> None:
    plain = SECRET.sub(lambda found: found[2], value)
    marked = SECRET.sub(lambda found: mark(found[1], found[2]), shown or value)
    assert Redactor(KEY).redact_variable("SUDO_COMMAND", plain.encode()).decode() == marked


def test_a_long_variable_is_cut() -> None:
    value = b"mysql -phunter2 " + "é".encode() * 300
    record = Record(
        "exec", process(raw("true")), 0, "proc", "same", environment={"A": value, "B": b"b" * 256}
    )
    fields = builder(max_argv_bytes=257).build(record, Decision("log", None, 6)).fields
    shown = fields["PROCWATCH_ENV_A"]
    assert isinstance(shown, bytes)
    assert shown.decode() == f"mysql -p{mark('password', 'hunter2')} {'é' * 120} […360 bytes…]"
    assert fields["PROCWATCH_ENV_B"] == b"b" * 256
    assert fields["PROCWATCH_ENVIRONMENT_TRUNCATED"] == "1"
    record.environment = {"B": b"b" * 257}
    whole = builder(max_argv_bytes=257).build(record, Decision("log", None, 6)).fields
    assert "PROCWATCH_ENVIRONMENT_TRUNCATED" not in whole


def test_of_an_environment_that_was_not_read_whole_it_is_said() -> None:
    record = Record("exec", process(raw("true")), 0, "proc", "same", environment={}, is_environment_cut=True)
    assert builder().build(record, Decision("log", None, 6)).fields["PROCWATCH_ENVIRONMENT_TRUNCATED"] == "1"


def test_off_is_off() -> None:
    argv = raw("mysql", "-phunter2")
    assert builder(Redactor(KEY, is_builtin=False)).command(process(argv)) == "mysql -phunter2"
    cut = process(raw("x", "y" * 5000, "--password=z"))
    assert str(builder(Redactor(KEY, is_builtin=False), 256).command(cut)).endswith("y --password=z")


def test_what_was_kept_is_not_shown_under_another_configuration() -> None:
    one = process(raw("mysql", "-phunter2"))
    assert builder(Redactor(KEY, is_builtin=False)).command(one) == "mysql -phunter2"
    assert "hunter2" not in str(builder().command(one))
    assert builder(Redactor(b"o" * 32)).command(one) != builder().command(one)


@pytest.mark.parametrize(
    ("pattern", "argv", "shown"),
    [
        ("corp-[0-9]{4}", ("x", "corp-1234"), f"x '{mark('own', 'corp-1234')}'"),
        ("corp-[0-9]{4}", ("x", "--a=corp-1234"), f"x '{mark('own', '--a=corp-1234')}'"),
        ("corp-[0-9]{4}", ("sh", "-c", "x corp-1234 y"), f"sh -c 'x {mark('own', 'corp-1234')} y'"),
        ("corp [0-9]{4}", ("x", "a corp 1234"), f"x '{mark('own', 'a corp 1234')}'"),
        ("^corp$", ("x", "corp", "corps"), f"x '{mark('own', 'corp')}' corps"),
        ("corp", ("x", "y"), "x y"),
        ("(?i)CORP", ("x", "corp"), f"x '{mark('own', 'corp')}'"),
    ],
)
def test_own_patterns(pattern: str, argv: tuple[str, ...], shown: str) -> None:
    assert builder(Redactor(KEY, patterns=[("own", pattern)])).command(process(raw(*argv))) == shown


def test_many_own_patterns_are_as_each_alone() -> None:
    """Also where flags and names would be taken for the others', and where they are too big together."""
    for filling in ("(?i)x{5}", "(?P<x>a)b", r"\p{L}{100}z"):
        patterns = [("none", filling), ("own", "corp"), *[("none", filling)] * 97, ("last", "Last")]
        redactor = Redactor(KEY, patterns=patterns)
        shown = builder(redactor).command(process(raw("x", "corp", "CORP", "Last", "last")))
        assert shown == f"x '{mark('own', 'corp')}' CORP '{mark('last', 'Last')}' last"


def test_many_own_patterns_take_no_longer_than_one() -> None:
    patterns = [(f"own{n}", f"corp{n}-[0-9]{{4}}") for n in range(100)]
    argv = b"a\0" * 2000

    def seconds(count: int) -> float:
        redactor, best = Redactor(KEY, patterns=patterns[:count]), 1e9
        for _ in range(5):
            before = time.thread_time()
            redactor.redact(argv)
            best = min(best, time.thread_time() - before)
        return best

    assert seconds(100) < 5 * seconds(1)


SECRET_WORD = "hunter2" * 6


@pytest.mark.parametrize(
    "secret",
    [
        ("--password", SECRET_WORD),
        (f"--password={SECRET_WORD}",),
        (f"-p{SECRET_WORD}",),
        (f"https://u:{SECRET_WORD}@h/",),
        ("gh" + "p_" + SECRET_WORD,),
    ],
)
@pytest.mark.parametrize("known", [(1 << 20, 0), (192, 64), (220, 100), (4000, 4000)])
@pytest.mark.parametrize("patterns", [[], [("own", "nothing")]])
def test_no_part_of_a_secret_survives_a_cut(
    secret: tuple[str, ...], known: tuple[int, int], patterns: list[tuple[str, str]]
) -> None:
    """`known`: how much is known of the head and of the tail."""
    head, tail = known
    redactor = Redactor(KEY, patterns=patterns)
    for before in (0, 150, 175, 180, 184, 188, 230, 1000):
        for behind in (0, 25, 40, 55, 62, 70, 1000):
            argv = raw("mongo", "a" * before, *secret, "b" * behind, "c" * 600 if behind == 1000 else "c")
            is_whole = head >= len(argv)
            source = b"" if is_whole else argv[max(0, len(argv) - tail) :]
            shown = cut_argv(argv[:head], 256, len(argv), source, redactor)
            # What a few characters of it give away is how it begins.
            assert not any(piece in shown for piece in ("unte", "hunt", "nter2", "ter2h", "er2hu", "r2hun"))


KEY_LINES = "\n".join(f"{n:02d}hunter" * 8 for n in range(50))
LONG_SECRETS = {
    "a private key": ("-b", f"-----BEGIN RSA PRIVATE KEY-----\n{KEY_LINES}\n-----END RSA PRIVATE KEY-----\n"),
    "one in a script": (
        "sh",
        "-c",
        f'echo "-----BEGIN PRIVATE KEY-----\n{KEY_LINES}\n-----END PRIVATE KEY-----" > f',
    ),
    "a cookie": ("-H", "Cookie: " + "; ".join(f"c{n}=hunter" for n in range(600))),
    "a password with blanks": ("--password", "hunter " * 900),
    "more than what is looked at": ("--password", "hunter " * 9000),
    "a script that is": ("sh", "-c", "tool --password='" + "hunter " * 9000 + "' x"),
}


@pytest.mark.parametrize("secret", LONG_SECRETS.values(), ids=LONG_SECRETS)
@pytest.mark.parametrize("known", [(128 << 10, 0), (3072, 1024), (3072, 4096)])
@pytest.mark.parametrize("before", [0, 600, 1500, 2900, 3060])
def test_no_part_of_a_long_secret_survives_a_cut(
    secret: tuple[str, ...], known: tuple[int, int], before: int
) -> None:
    head, tail = known
    argv = raw("gh", "a" * before, *secret)
    source = b"" if head >= len(argv) else argv[-tail:]
    assert "hunter" not in cut_argv(argv[:head], 4096, len(argv), source, Redactor(KEY))


def test_what_is_known_whole_is_shown_behind_a_cut() -> None:
    script = "x " * 2000
    argv = raw("tool", "--token=x", "sh", "-c", script, "last one")
    shown = cut_argv(argv, 256, len(argv), b"", Redactor(KEY))
    assert shown.endswith(" x x ' 'last one'")
    assert "cut" not in shown


def test_what_is_far_from_a_cut_is_shown() -> None:
    argv = raw("prog", "token=x", *["word"] * 3000, "last")
    shown = cut_argv(argv, 256, len(argv), b"", Redactor(KEY))
    assert shown.startswith(f"prog 'token={mark('token', 'x')}' word ")
    assert shown.endswith(" word last")
    assert "cut" not in shown


@pytest.mark.parametrize("size", range(60))
def test_every_truncation_of_a_script_is_taken(size: int) -> None:
    script = 'sudo -u a bash -c "PGPASSWORD=\'a b\' mysql -p$(cat \\"x\\") | `curl -u a:b`'[:size]
    for argv in (raw("sh", "-c", script), raw(*script.split(" ")), raw("sh", "-c", script)[:-1]):
        assert Redactor(KEY).redact(argv).count(b"\0") == argv.count(b"\0")


WORST = {
    "names": b"token=a\0",
    "names in one": b"password=",
    "jwt": b"eyJ",
    "urls": b"://a:",
    "ats": b"://a:b@",
    "keys": b"-----BEGIN PRIVATE KEY-----",
    "dashes": b"-----BEGIN PRIVATE KEY",
    "options": b"-p\0",
    "words": b"a\0",
    "scripts": b"mysql -px;",
    "nested": b"$(x ",
    "quotes": b"\"'",
    "aws": b"aB1",
    "digits": b"1234567890:",
    "starters": b"sudo\0",
    "headers": b"x-a-",
    "bearers": b"bearer ",
    "identified": b"identified by ",
    "cookies": b"cookie: a\0",
    "curl": b"-u\0a:b\0",
    "lists": b'"password":["',
    "listed": b'"a","a",',
    "prompts": b'"password: ',
    "bare headers": b"cookie:a;",
    "bare words": b"cookie:a ",
    "sql": b"identified by 'a''",
    "for": b"password for a = ",
    "dollars": b"password $$",
    "users": b"://aaaaaaaaaaaaaaaaaaaa1",
    "paths": b"://a:b/",
    "blanks": b"token = ",
    "debug": b"-debug-pass=",
    "mappings": b'"password":[{"value":"a"},{"value":"a"},',
    "defined": b"('password','",
    "indexed": b'"password"] = "',
    "jwt files": b"-auth-token=jwt,a",
    "shells": b"sh -c '",
    "shells in shells": b"sh -c '\"'\"",
    "pieces": b'\\"\'a\'"b"',
    "quoted names": b"tool 'token=a' \"token=b\";",
}


@pytest.mark.parametrize(
    "start", [b"token=x\0", b"sh\0-c\0token=x ", b"sudo\0mysql\0", b"AKIAABCDEFGHIJKLMNOP "]
)
@pytest.mark.parametrize("unit", WORST.values(), ids=WORST)
def test_the_worst_takes_no_longer_than_it_is_long(start: bytes, unit: bytes) -> None:
    """Four times the length may take four times the time, and some noise; what backtracks takes sixteen."""

    def seconds(size: int) -> float:
        text = (start + unit * (size // len(unit) + 1))[:size]
        redactor, best = Redactor(KEY), 1e9
        for _ in range(3):
            before = time.thread_time()
            redactor.redact(text)
            best = min(best, time.thread_time() - before)
        return best

    assert seconds(16 << 10) < 10 * seconds(4 << 10) + 0.002


def test_many_shells_take_a_script_no_longer_than_one() -> None:
    """Nor do they where each is within another's."""

    def seconds(shells: str) -> float:
        script = shlex.split(f"""{shells} -c "{shells} -c '{"a token=x " * 1500}'\"""")
        redactor, best = Redactor(KEY), 1e9
        for _ in range(3):
            before = time.thread_time()
            redactor.redact(raw(*script))
            best = min(best, time.thread_time() - before)
        return best

    assert seconds("sh " * 15) < 5 * seconds("sh")
