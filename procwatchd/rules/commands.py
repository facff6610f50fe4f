# SPDX-License-Identifier: MIT
"""The commands in a list of arguments: that of the program itself, those it starts, and those in a shell's script.

As in `sudo -u app docker exec db sh -c 'mysql -p… | gzip'`. Shells are understood as far as words, quotes and what
stands between commands go.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import dropwhile, pairwise
from typing import NamedTuple

from procwatchd.rules.programs import ASKING, PROGRAMS, Place, Word, printed, takes_from_pipe
from procwatchd.rules.shapes import QUOTES, WORD, Secret, is_harmless, is_secret, kind_of, unquoted

# Limits.
CHAIN_LIMIT = 16  # programs that start one another in one command
DEPTH_LIMIT = 5  # scripts within scripts
SUBCOMMAND_WITHIN = 16  # words
LETTERS_LIMIT = 16  # options in one argument

_SHELLS = frozenset(b"sh bash dash ash zsh ksh mksh rbash fish".split())
_RUN_STRINGS = _SHELLS | frozenset(b"su runuser script flock vagrant sg".split())
_is_c_option = re.compile(rb"-[A-Za-z]{0,8}c[A-Za-z]{0,8}|--command").fullmatch
_is_assignment = re.compile(rb"[A-Za-z_][A-Za-z0-9_]{0,127}=.*", re.DOTALL).fullmatch
# Blanks, comments and redirections, words, and what ends a command. What a here-string gives is a word.
_token = re.compile(
    rb"(?:[^\S\n]|\0|\\\n|(?<!\S)#[^\n]*+|<<<|[0-9]{0,3}[<>]{1,2}[&|]?[^\S\n]*+[^\s;&|()<>`\"'$\\\0]*+)+"
    rb"|(" + WORD + rb"+)|([;&|\n()`]++)"
)
# The pieces of a word of a shell's without its quotes, and those of what is between `"`.
_piece = re.compile(rb"'([^'\0]*+)'?|\"((?:[^\"\\\0]++|\\[^\0])*)\"?|\\([^\0])|([^'\"\\]++)")
_piece_in_quotes = re.compile(rb"\\([\"\\$`])|([^\\]++|\\)")
_SINGLE, _DOUBLE = 1, 2  # groups of `_piece`


def _words(text: str) -> frozenset[bytes]:
    return frozenset(text.encode().split())


@dataclass(frozen=True, slots=True)
class _Starter:
    """A program that starts another one, and what stands between the two.

    `valued` are its options that take the next argument. `switches`: in place of that, those that do not. `skipped` is
    how many more words it takes. `after`: only behind one of these words. `naming` are options that name the other
    program; its arguments then stand where it would.
    """

    valued: frozenset[bytes] = frozenset()
    switches: frozenset[bytes] = frozenset()
    skipped: int = 0
    after: frozenset[bytes] = frozenset()
    naming: frozenset[bytes] = frozenset()

    def command(self, words: list[Word]) -> list[Word]:
        """The other one's command; empty where there is none."""
        at, skipped = 1, 0
        if self.after:
            places = range(at, min(at + SUBCOMMAND_WITHIN, len(words)))
            at = next((n + 1 for n in places if words[n].text in self.after), len(words))
        named: list[Word] = []
        while at < len(words):
            text = words[at].text
            if text == b"--":
                return [*named, *words[at + 1 + self.skipped - skipped :]]
            if named and skipped == self.skipped:
                break
            if len(text) > 1 and text.startswith(b"-"):
                named = self._named(words, at) or named
                at += self._takes_next(text)
            elif not _is_assignment(text):
                if skipped == self.skipped:
                    break
                skipped += 1
            at += 1
        return [*named, *words[at:]]

    def _named(self, words: list[Word], at: int) -> list[Word]:
        """The program that the option at this place names."""
        name, equals, value = words[at].text.partition(b"=")
        if name not in self.naming:
            return []
        return [Word(value, words[at].start + len(name) + 1)] if equals else words[at + 1 : at + 2]

    def _takes_next(self, option: bytes) -> bool:
        if option.startswith(b"--"):
            return b"=" not in option and self._is_valued(option)
        # Of the letters in one argument, the first to take a value has what is behind it there.
        letters = option[1 : 1 + LETTERS_LIMIT]
        valued = next((n for n in range(len(letters)) if self._is_valued(b"-" + letters[n : n + 1])), None)
        return valued == len(option) - 2

    def _is_valued(self, option: bytes) -> bool:
        if self.switches:
            return option not in self.switches
        return option in self.valued or option in self.naming


def _starter(
    valued: str = "", *, skipped: int = 0, after: str = "", switches: str = "", naming: str = ""
) -> _Starter:
    return _Starter(_words(valued), _words(switches), skipped, _words(after), _words(naming))


_CONTAINERS = _starter(
    after="exec run create",
    skipped=1,
    switches="-i -t -d -q -P -T --rm --privileged --init --tty --interactive --detach --quiet "
    "--read-only --no-deps --service-ports --publish-all --build --no-TTY --no-tty",
    naming="--entrypoint",
)
# Of what is not known: what stands behind `--` may be a command.
_UNKNOWN = _starter(after="--")
_STARTERS = {
    name.encode(): starter
    for names, starter in (
        (
            "sudo",
            _starter("-u -g -h -p -C -r -t -T -U -D -R --user --group --host --prompt --chdir --chroot"),
        ),
        ("doas pkexec runuser", _starter("-u -C -g -G --user --group")),
        ("env", _starter("-u -C --unset --chdir")),
        ("nice ionice", _starter("-n -c -p -P --adjustment --class --classdata")),
        ("chrt", _starter("-T -P -D", skipped=1)),
        ("timeout", _starter("-s -k --signal --kill-after", skipped=1)),
        (
            "chroot arch-chroot taskset gosu su-exec setuidgid",
            _starter("-u --userspec --groups", skipped=1),
        ),
        (
            "nohup setsid command builtin busybox catchsegv unbuffer eatmydata chronic firejail valgrind eval trap "
            "coproc then do else elif if while until ! {",
            _starter(),
        ),
        ("function", _starter(skipped=1)),
        ("exec", _starter("-a")),
        ("time", _starter("-f -o --format --output")),
        ("flock", _starter("-w -E -c --timeout --wait --conflict-exit-code --command", skipped=1)),
        ("cpulimit", _starter("-l -p -e -P --limit --pid --exe --path")),
        ("systemd-cat", _starter("-t -p --identifier --priority --stderr-priority --namespace")),
        ("systemd-inhibit", _starter("--what --who --why --mode")),
        ("screen", _starter("-S -c -e -h -p -s -t -T -X")),
        (
            "tmux",
            _starter(
                "-s -n -t -c -e -F -x -y -l -p",
                after="new new-session neww new-window split-window splitw respawn-pane respawn-window run-shell run "
                "send-keys send popup display-popup",
            ),
        ),
        ("tini dumb-init catatonit", _starter("-p -e -r --rewrite")),
        ("stdbuf", _starter("-i -o -e --input --output --error")),
        ("strace ltrace", _starter("-e -o -p -s -a -E -I -O -P -S -u -X")),
        ("perf", _starter("-e -o -p -t -F -C -c -G -m -D -I -r", after="record stat trace top")),
        (
            "setpriv unshare nsenter",
            _starter("-t -S -G --target --reuid --regid --groups --bounding-set --inh-caps"),
        ),
        (
            "systemd-run",
            _starter("-p -u -E -M -H -t --property --unit --setenv --machine --host --uid --gid --slice"),
        ),
        ("start-stop-daemon", _starter("-p -u -g -c -k -d -r -N", naming="-x -a --exec --startas")),
        ("watch", _starter("-n --interval")),
        ("xargs parallel", _starter("-n -I -L -P -d -E -s -a -j --jobs --max-args --max-procs --replace")),
        ("find", _starter(after="-exec -execdir -ok -okdir")),
        ("gdb", _starter(after="--args")),
        ("ip", _starter(after="exec", skipped=1)),
        (
            "kubectl oc lxc incus pct",
            _starter(
                "-c -n -u --container --namespace --context --image --cwd --env",
                after="exec run debug rsh",
                skipped=1,
            ),
        ),
        ("lxc-attach", _starter("-n -P -e -s -R -u -g -v --name --lxcpath --set-var")),
        (
            "runc crun",
            _starter("-u -e -p -c --cwd --env --user --process --pid-file", after="exec", skipped=1),
        ),
        ("ctr", _starter("--exec-id --cwd --user --env", after="exec", skipped=1)),
        ("crictl", _starter(after="exec", skipped=1, switches="-i -t")),
        ("machinectl", _starter("-M -H -E --machine --host --uid --setenv", after="shell", skipped=1)),
        ("systemd-nspawn", _starter("-D -i -M -u -S -p --directory --image --machine --user --slice --bind")),
        ("docker podman nerdctl docker-compose podman-compose", _CONTAINERS),
        (
            "ssh autossh",
            _starter("-p -i -o -l -L -R -D -F -J -b -c -E -e -I -m -M -O -Q -S -W -w -B", skipped=1),
        ),
        # What the kernel makes of a script's `#!`, too.
        ("sh bash dash ash zsh ksh mksh rbash", _starter("-o +o -O +O -c --rcfile --init-file")),
        ("python", _starter("-c -W -X")),
        ("perl ruby node php lua", _starter("-e -E -r -d -c -M -I --eval --require")),
    )
    for name in names.split()
}


class Unquoted(NamedTuple):
    """The arguments that a script gives a command, each ended by NUL, and the place of each of their bytes there.

    `quoted`: from where to where what is in quotes is there.
    """

    text: bytearray
    places: list[int]
    quoted: list[tuple[int, int]]

    def in_script(self, secret: Secret) -> Secret:
        """A secret of these arguments, with its quotes."""
        return secret._replace(start=self.places[secret.start], end=self.places[secret.end - 1] + 1)


@dataclass(slots=True)
class Reading:
    """What was found in arguments: secrets, from where to where there are scripts, and what quotes in these hide."""

    text: bytes
    secrets: list[Secret] = field(default_factory=list)
    scripts: list[tuple[int, int]] = field(default_factory=list)
    # By where a command ends, and where a script starts: each only once, however many shells claim it.
    unquoted: dict[int, Unquoted] = field(default_factory=dict)
    starts: set[int] = field(default_factory=set)

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
    if any(word.text for word in words[1:]):
        _read_command(reading, words, 0)
    else:
        # A program may write its whole title there, and a variable have a command. It is no script for sure.
        _read_script(reading, words[0], 1)
        reading.scripts.clear()
        reading.unquoted.clear()
    return reading


def _read_command(reading: Reading, words: list[Word], depth: int) -> None:
    """One command, and those that it starts. `depth` is that of the script it is in, 0 in none."""
    rest, program = [*dropwhile(lambda word: _is_assignment(word.text), words)], b""
    for _ in range(CHAIN_LIMIT):
        if not rest:
            break
        if rest[0] is not words[0] and any(blank in rest[0].text for blank in (b" ", b"\n")):
            _read_script(reading, rest[0], depth + 1)
            break
        program = rest[0].text.rpartition(b"/")[2].lstrip(b"\\")
        for way in PROGRAMS.get(program, ()):
            for place in way.find(rest):
                reading.add(place, in_shell=depth > 0)
        if program in _RUN_STRINGS and (script := _script(rest)):
            _read_script(reading, script, depth + 1)
        rest = _starter_of(program).command(rest)
    if program not in ASKING:
        for place in _behind_names(words):
            reading.add(place, in_shell=depth > 0)


def _starter_of(program: bytes) -> _Starter:
    # With its version, as python3.11, it is the same.
    return _STARTERS.get(program) or _STARTERS.get(program.rstrip(b"0123456789."), _UNKNOWN)


def _behind_names(words: list[Word]) -> Iterator[Place]:
    """What comes after an option that is called password and the like."""
    for word, following in pairwise(words):
        if word.text[:1] == b"-" and following.text[:1] != b"-" and is_secret(word.text, following.text):
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
    if depth > DEPTH_LIMIT or script.start in reading.starts:
        return
    reading.starts.add(script.start)
    if depth == 1:
        reading.scripts.append((script.start, script.start + len(script.text)))
    commands = [*_split(script)]
    for at, (words, operator, tokens) in enumerate(commands):
        _read_command(reading, words, depth)
        # Those of scripts within are found there.
        if depth == 1 and len(words) > 1 and any(quote in token.text for token in tokens for quote in QUOTES):
            reading.unquoted.setdefault(tokens[-1].start + len(tokens[-1].text), _arguments(tokens))
        for word in words:
            if (inner := word.text.find(b"$(")) >= 0:
                _read_script(reading, Word(word.text[inner + 2 :], word.start + inner + 2), depth + 1)
        if operator == b"|" and at + 1 < len(commands) and takes_from_pipe(commands[at + 1][0]):
            for place in printed(words):
                reading.add(place, in_shell=True)


def _split(script: Word) -> Iterator[tuple[list[Word], bytes, list[Word]]]:
    """The commands of a script, none empty, each with what comes behind it, and with its words as they are written."""
    tokens: list[Word] = []
    for token in _token.finditer(script.text):
        if token[1] is not None:
            tokens.append(Word(token[1], script.start + token.start()))
        elif token[2] is not None and tokens:
            yield [_without_quotes(*word) for word in tokens], token[2], tokens
            tokens = []
    if tokens:
        yield [_without_quotes(*word) for word in tokens], b"", tokens


def _without_quotes(text: bytes, start: int) -> Word:
    quote = text[:1]
    is_quoted = len(text) > 1 and quote in (b'"', b"'") and text.find(quote, 1) == len(text) - 1
    return Word(text[1:-1], start + 1) if is_quoted else Word(text, start)


def _arguments(tokens: list[Word]) -> Unquoted:
    """What a shell makes of the words of a command."""
    made = Unquoted(bytearray(), [], [])
    for word, start in tokens:
        for piece in _piece.finditer(word):
            low, high = piece.span(piece.lastindex or 0)
            if piece.lastindex in (_SINGLE, _DOUBLE):
                made.quoted.append((start + low, start + high))
            for at, end in _escaped(word, low, high) if piece.lastindex == _DOUBLE else ((low, high),):
                made.text.extend(word[at:end])
                made.places.extend(range(start + at, start + end))
        made.text.append(0)
        made.places.append(start + len(word))
    return made


def _escaped(word: bytes, low: int, high: int) -> Iterator[tuple[int, int]]:
    """From where to where what is between `"` is what it stands for."""
    for piece in _piece_in_quotes.finditer(word, low, high):
        yield piece.span(piece.lastindex or 0)
