# SPDX-License-Identifier: MIT
"""The commands in a list of arguments: that of the program itself, those it starts, and those in a shell's script.

As in `sudo -u app docker exec db sh -c 'mysql -p… | gzip'`. Shells are understood as far as words, quotes and what
stands between commands go.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from procwatchd.rules.programs import ASKING, PROGRAMS, Place, Word, printed, takes_from_pipe
from procwatchd.rules.shapes import WORD, Secret, is_harmless, is_secret_name, kind_of, unquoted

# Limits.
CHAIN_LIMIT = 16  # programs that start one another in one command
DEPTH_LIMIT = 5  # scripts within scripts
SUBCOMMAND_WITHIN = 16  # words

_SHELLS = frozenset(b"sh bash dash ash zsh ksh mksh rbash fish".split())
_RUN_STRINGS = _SHELLS | frozenset(b"su runuser script flock vagrant sg".split())
_is_c_option = re.compile(rb"-[A-Za-z]{0,8}c[A-Za-z]{0,8}|--command").fullmatch
_is_assignment = re.compile(rb"[A-Za-z_][A-Za-z0-9_]{0,127}=.*", re.DOTALL).fullmatch
# Blanks and comments, words, and what ends a command.
_token = re.compile(rb"(?:[^\S\n]|[<>\0]|\\\n|(?<!\S)#[^\n]*+)+|(" + WORD + rb"+)|([;&|\n()`]++)")


def _words(text: str) -> frozenset[bytes]:
    return frozenset(text.encode().split())


@dataclass(frozen=True, slots=True)
class _Starter:
    """A program that starts another one, and what stands between the two.

    `valued` are its options that take the next argument. `switches`: in place of that, those that do not. `skipped` is
    how many more words it takes. `after`: only behind one of these words.
    """

    valued: frozenset[bytes] = frozenset()
    switches: frozenset[bytes] = frozenset()
    skipped: int = 0
    after: frozenset[bytes] = frozenset()

    def command_at(self, words: list[Word], at: int) -> int:
        """Where the other one's command begins; the number of words where there is none."""
        at += 1
        if self.after:
            places = range(at, min(at + SUBCOMMAND_WITHIN, len(words)))
            at = next((n + 1 for n in places if words[n].text in self.after), len(words))
        skipped = 0
        while at < len(words):
            text = words[at].text
            if text == b"--":
                return at + 1 + self.skipped - skipped
            if len(text) > 1 and text.startswith(b"-"):
                at += 1 + self._takes_next(text)
            elif not _is_assignment(text):
                if skipped == self.skipped:
                    return at
                skipped += 1
                at += 1
            else:
                at += 1
        return len(words)

    def _takes_next(self, option: bytes) -> bool:
        if self.switches:
            return option not in self.switches and b"=" not in option
        return option in self.valued


def _starter(valued: str = "", *, skipped: int = 0, after: str = "", switches: str = "") -> _Starter:
    return _Starter(_words(valued), _words(switches), skipped, _words(after))


_CONTAINERS = _starter(
    after="exec run",
    skipped=1,
    switches="-i -t -d -q -P -T -it -ti -itd -dit -tid --rm --privileged --init --tty --interactive --detach --quiet "
    "--read-only --no-deps --service-ports --publish-all --build --no-TTY --no-tty",
)
_STARTERS = {
    name.encode(): starter
    for names, starter in (
        (
            "sudo",
            _starter("-u -g -h -p -C -r -t -T -U -D -R --user --group --host --prompt --chdir --chroot"),
        ),
        ("doas pkexec runuser", _starter("-u -C -g -G --user --group")),
        ("env", _starter("-u -C --unset --chdir")),
        ("nice ionice chrt", _starter("-n -c -p -T -P -D --adjustment --class --classdata")),
        ("timeout", _starter("-s -k --signal --kill-after", skipped=1)),
        ("chroot taskset gosu su-exec setuidgid", _starter("--userspec --groups", skipped=1)),
        (
            "nohup setsid exec command builtin time busybox catchsegv unbuffer eatmydata then do else if while",
            _starter(),
        ),
        ("tini dumb-init catatonit", _starter("-p -e -r --rewrite")),
        ("stdbuf", _starter("-i -o -e --input --output --error")),
        ("strace ltrace perf", _starter("-e -o -p -s -a -E -I -O -P -S -u -X")),
        (
            "setpriv unshare nsenter",
            _starter("-t -S -G --target --reuid --regid --groups --bounding-set --inh-caps"),
        ),
        (
            "systemd-run",
            _starter("-p -u -E -M -H -t --property --unit --setenv --machine --host --uid --gid --slice"),
        ),
        ("watch", _starter("-n --interval")),
        ("xargs parallel", _starter("-n -I -L -P -d -E -s -a -j --jobs --max-args --max-procs --replace")),
        ("find", _starter(after="-exec -execdir -ok -okdir")),
        ("gdb", _starter(after="--args")),
        ("ip", _starter(after="exec", skipped=1)),
        ("kubectl oc lxc incus pct", _starter(after="--")),
        ("crictl", _starter(after="exec", skipped=1, switches="-i -t -it -ti")),
        ("docker podman nerdctl docker-compose podman-compose", _CONTAINERS),
        (
            "ssh autossh",
            _starter("-p -i -o -l -L -R -D -F -J -b -c -E -e -I -m -M -O -Q -S -W -w -B", skipped=1),
        ),
        # What the kernel makes of a script's `#!`, too.
        ("sh bash dash ash zsh ksh mksh rbash", _starter("-o +o -O +O -c --rcfile --init-file")),
        ("python", _starter("-c -W -X")),
        ("perl ruby node php lua", _starter("-e -E -ne -pe -lne -r -d -c --eval --require")),
    )
    for name in names.split()
}


@dataclass(slots=True)
class Reading:
    """What was found in arguments: secrets, and from where to where there are scripts."""

    text: bytes
    secrets: list[Secret] = field(default_factory=list)
    scripts: list[tuple[int, int]] = field(default_factory=list)

    def add(self, place: Place, *, in_shell: bool) -> None:
        """Take in a secret, unless what is there is none."""
        value = self.text[place.start : place.end]
        if not is_harmless(value, in_shell=in_shell):
            plain = unquoted(value) if in_shell else value
            self.secrets.append(Secret(place.start, place.end, place.kind, plain))


def read_commands(text: bytes) -> Reading:
    """All that programs take as secrets in arguments, each ended by NUL."""
    reading = Reading(text)
    words, start = [], 0
    for argument in text.removesuffix(b"\0").split(b"\0"):
        words.append(Word(argument, start))
        start += len(argument) + 1
    _read_command(reading, words, 0)
    return reading


def _read_command(reading: Reading, words: list[Word], depth: int) -> None:
    """One command, and those that it starts. `depth` is that of the script it is in, 0 in none."""
    at, program = 0, b""
    while at < len(words) and _is_assignment(words[at].text):
        at += 1
    for _ in range(CHAIN_LIMIT):
        if at >= len(words):
            break
        if at and any(blank in words[at].text for blank in (b" ", b"\n")):
            _read_script(reading, words[at], depth + 1)
            break
        program, rest = words[at].text.rpartition(b"/")[2], words[at:]
        for way in PROGRAMS.get(program, ()):
            for place in way.find(rest):
                reading.add(place, in_shell=depth > 0)
        if program in _RUN_STRINGS and (script := _script(rest)):
            _read_script(reading, script, depth + 1)
        # With its version, as python3.11, it is the same.
        starter = _STARTERS.get(program) or _STARTERS.get(program.rstrip(b"0123456789."))
        at = len(words) if starter is None else starter.command_at(words, at)
    if program not in ASKING:
        for place in _behind_names(words):
            reading.add(place, in_shell=depth > 0)


def _behind_names(words: list[Word]) -> Iterator[Place]:
    """What comes after an option that is called password and the like."""
    for word, following in pairwise(words):
        if word.text[:1] == b"-" and following.text[:1] != b"-" and is_secret_name(word.text):
            yield Place(following.start, following.start + len(following.text), kind_of(word.text))


def _script(words: list[Word]) -> Word | None:
    """What a shell, the first word, is to run."""
    for at, word in enumerate(words[1:], 1):
        if _is_c_option(word.text):
            return next((w for w in words[at + 1 :] if w.text[:1] != b"-"), None)
        if word.text.startswith(b"--command="):
            return Word(word.text[10:], word.start + 10)
    return None


def _read_script(reading: Reading, script: Word, depth: int) -> None:
    if depth > DEPTH_LIMIT:
        return
    if depth == 1:
        reading.scripts.append((script.start, script.start + len(script.text)))
    commands = [*_split(script)]
    for at, (words, operator) in enumerate(commands):
        _read_command(reading, words, depth)
        for word in words:
            if (inner := word.text.find(b"$(")) >= 0:
                _read_script(reading, Word(word.text[inner + 2 :], word.start + inner + 2), depth + 1)
        if operator == b"|" and at + 1 < len(commands) and takes_from_pipe(commands[at + 1][0]):
            for place in printed(words):
                reading.add(place, in_shell=True)


def _split(script: Word) -> Iterator[tuple[list[Word], bytes]]:
    """The commands of a script, none empty, each with what comes behind it."""
    words: list[Word] = []
    for token in _token.finditer(script.text):
        if token[1] is not None:
            words.append(_without_quotes(token[1], script.start + token.start()))
        elif token[2] is not None and words:
            yield words, token[2]
            words = []
    if words:
        yield words, b""


def _without_quotes(text: bytes, start: int) -> Word:
    quote = text[:1]
    is_quoted = len(text) > 1 and quote in (b'"', b"'") and text.find(quote, 1) == len(text) - 1
    return Word(text[1:-1], start + 1) if is_quoted else Word(text, start)
