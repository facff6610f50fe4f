# SPDX-License-Identifier: MIT
"""`procwatchctl export`: entries in the forms of other programs, from the oldest on."""

from __future__ import annotations

import argparse
import collections
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import IO, Protocol

from procwatchd.ctl.errors import CtlError
from procwatchd.ctl.export.csvlines import csv_header, csv_line
from procwatchd.ctl.export.ecs import ecs
from procwatchd.ctl.export.ocsf import ocsf
from procwatchd.ctl.export.perfetto import Trace
from procwatchd.ctl.export.typed import LeftOutError
from procwatchd.ctl.past.entries import Entries, Entry, as_json
from procwatchd.ctl.past.filters import parse_filter
from procwatchd.ctl.past.jsonlines import Skipped
from procwatchd.ctl.past.progress import with_progress
from procwatchd.ctl.show.outputfile import STANDARD_OUTPUT, output_to
from procwatchd.ctl.show.screen import Screen, clean, print_skipped

FOLLOWED = 10  # entries of before that are there when others are waited for

_encode = json.JSONEncoder(separators=(",", ":")).encode


class Form(Protocol):
    """What makes text of entries."""

    def begin(self) -> str:
        """What is before all of them."""

    def take(self, entry: Entry) -> str:
        """What an entry gives. Raises LeftOutError where it has no place."""

    def end(self) -> Iterable[str]:
        """What is after all of them."""


class _Lines:
    """A form with a line for each entry, and no more than a head."""

    def __init__(self, take: Callable[[Entry], str], head: str = "") -> None:
        self.take = take
        self._head = head

    def begin(self) -> str:
        return self._head

    def end(self) -> Iterable[str]:
        return ()


_FORMS: dict[str, Callable[[], Form]] = {
    "json": lambda: _Lines(lambda entry: f"{_encode(as_json(entry))}\n"),
    "ecs": lambda: _Lines(lambda entry: f"{_encode(ecs(entry))}\n"),
    "ocsf": lambda: _Lines(lambda entry: f"{_encode(ocsf(entry))}\n"),
    "csv": lambda: _Lines(csv_line, csv_header()),
    "perfetto": Trace,
}


def export(options: argparse.Namespace) -> int:
    """Do it; gives the exit status."""
    if options.follow and options.format == "perfetto":
        raise CtlError("a trace has an end: --follow is for the other forms")
    wanted = parse_filter(options.filters)
    entries = Entries(options, wanted)
    form, missing = _FORMS[options.format](), collections.Counter[str]()
    if isinstance(form, Trace) and "exit" not in wanted.in_index.get("EVENT", ("exit",)):
        why = "perfetto: the filter leaves out the ends of processes, which event=exit would have"
        Screen(sys.stderr).print(clean(why, "yellow"), soft_wrap=True)
    try:
        with output_to(options.output, is_endless=options.follow) as file:
            _write(form, _chosen(options, entries), file, missing)
    finally:
        if wanted.unknown:
            missing["are left out: what the filter asks for is not known of them"] = wanted.unknown
        if isinstance(form, Trace) and form.lives.forgotten:
            missing["are of processes that are there twice: too many lived"] = form.lives.forgotten
        _tell(options.format, missing, entries.skipped)
    return 0


def _chosen(options: argparse.Namespace, entries: Entries) -> Iterable[Entry | None]:
    if options.follow:
        return entries.follow(FOLLOWED)
    # On a terminal what is shown of the progress would be within the output.
    is_shown = options.output in (None, STANDARD_OUTPUT) and sys.stdout.isatty()
    return entries if is_shown else with_progress(entries)


def _write(
    form: Form, entries: Iterable[Entry | None], file: IO[str], missing: collections.Counter[str]
) -> None:
    """Write all of it; counts what is not in it, by why."""
    file.write(form.begin())
    for entry in entries:
        if entry is None:
            file.flush()
            continue
        if None in entry.values():
            missing["lack what was too long for journalctl without --all"] += 1
        try:
            file.write(form.take(entry))
        except LeftOutError as error:
            missing[f"are left out, as they are {error}"] += 1
    file.writelines(form.end())


def _tell(form: str, missing: Mapping[str, int], skipped: Skipped) -> None:
    """On standard error, what is not in the output, if anything."""
    console = Screen(sys.stderr)
    for why, count in missing.items():
        console.print(clean(f"{form}: {count} entries {why}", "yellow"), soft_wrap=True)
    print_skipped(console, skipped)
