# SPDX-License-Identifier: MIT
"""`doctor` on journald: where it stores, how much room that has, for how many days, and what rate it takes.

Facts:
- Storage=auto, the default, stores in /var/log/journal where that is there, else in /run/log/journal, in memory.
- What it may use is a tenth of the file system (SystemMaxUse=), and 15 % stay free for others (SystemKeepFree=); each
  at most 4 GiB by default. A file takes an eighth of the former, at most 128 MiB (SystemMaxFileSize=), and there are
  100 (SystemMaxFiles=, 0 for any number); none is kept for longer than MaxRetentionSec=. Runtime… is the same in /run
  [journald.conf(5)]. The oldest goes first.
- That is of /var/log/journal/MACHINE-ID alone: beside it are other machines' journals, and namespaces'
  [systemd-journald.service(8)].
- The header of a file has the number of its entries, the sizes of what is in it from the beginning, some MiB, and where
  the last object is; what comes after that was allocated ahead [systemd's JOURNAL_FILE_FORMAT].
- LogRateLimitIntervalSec=0 in a unit does nothing: then journald.conf's limit holds, 10000 in 30 s by default, which by
  the free space is up to some four times as much (systemd 252 and 257). There 0 is none. What it drops it counts in
  N_DROPPED of an entry, once a later one is let through; its own entries alone have _TRANSPORT=driver.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from procwatchd.ctl.errors import CtlError
from procwatchd.ctl.health.journal_entries import Entries, Written, when_usec
from procwatchd.ctl.health.system import DAY_USEC, Finding, System, fail, ok, warn
from procwatchd.ctl.past.entries import number_of
from procwatchd.ctl.past.facts import UNIT
from procwatchd.ctl.show.figures import date, size, span
from procwatchd.journal.quote import printable

PERSISTENT, VOLATILE = "/var/log/journal", "/run/log/journal"
SUPPRESSED = (
    "MESSAGE_ID=a596d6fe7bfa4994828e72309e95d61e",
    "_TRANSPORT=driver",
)  # SD_MESSAGE_JOURNAL_DROPPED

# Of the room that journald may use, where nothing else is configured.
USED_SHARE, FREE_SHARE, DEFAULT_MOST_BYTES = 0.10, 0.15, 4 << 30
FILES_OF_ALL, FILE_MOST_BYTES, FILES = 8, 128 << 20, 100

SHORT_SECONDS = 3600.0  # say nothing about days, but where there is no more because it is full
FULL_SHARE = 0.9
FEW_DAYS, VERY_FEW_DAYS = 7.0, 1.0
LOW_RATE = 5000.0  # entries a second: a build makes as many
SUPPRESSED_LIMIT = 1000

# u8 signature[8]; … le64 header_size @88; … le64 data_hash_table_size @112, field_hash_table_offset,
# field_hash_table_size, tail_object_offset, n_objects, n_entries @152; … le64 tail_entry_realtime @192
_HEADER = struct.Struct("<8s 80x Q 16x Q 8x QQ 8x Q 32x Q")
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([KMGTPE]?)i?B?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Stored:
    """What a journal takes: in all, and of the files that were written to of late, how much for how many entries."""

    used_bytes: int
    recent_bytes: int
    recent_entries: int


def storage(system: System) -> Iterator[Finding]:
    """Whether entries outlive a reboot."""
    wanted = _settings(system).get("Storage", "auto")
    place = _place(system)
    if wanted == "none":
        yield fail("storage", "journald stores nothing: Storage=none", _PERSISTENT)
    elif wanted == "volatile":
        yield warn("storage", f"entries are gone after a reboot: Storage={wanted}", _PERSISTENT)
    elif place == VOLATILE:
        text = f"entries are gone after a reboot: they go to {VOLATILE} (Storage={wanted})"
        advice = "journalctl --flush; systemctl status systemd-journald systemd-journal-flush"
        if not os.path.isdir(system.journal_root + PERSISTENT):
            advice = (
                f"mkdir -p {PERSISTENT}; systemd-tmpfiles --create --prefix {PERSISTENT}; journalctl --flush"
            )
        yield warn("storage", text, advice)
    elif place:
        yield ok("storage", f"entries outlive a reboot: they go to {PERSISTENT} (Storage={wanted})")


_PERSISTENT = "Storage=persistent in /etc/systemd/journald.conf, then systemctl restart systemd-journald"


def room(system: System) -> Iterator[Finding]:
    """How many days fit at the rate of the last day."""
    settings, place = _settings(system), _place(system)
    if not place:
        yield warn("room", "not looked at: there is no journal of this machine's own")
        return
    prefix = "System" if place == PERSISTENT else "Runtime"
    stored = _stored(_files(system, place), system.now_usec - DAY_USEC)
    limit = _limit_bytes(system.journal_root + place, stored.used_bytes, settings, prefix)
    written = Entries(system.journal_root).written(system.now_usec - DAY_USEC)
    text = f"{size(stored.used_bytes)} of {size(limit)} that journald may take"
    is_full = stored.used_bytes > FULL_SHARE * limit
    if written is None or not stored.recent_entries or (written.seconds < SHORT_SECONDS and not is_full):
        text += "; there are entries of too short a time to say how many days that is"
        yield ok("room", text, used=stored.used_bytes, limit=limit)
    else:
        kept_days = _seconds(settings.get("MaxRetentionSec", "")) / 86400
        yield _room(text, stored, limit, written, kept_days, prefix)


def _room(text: str, stored: Stored, limit: int, written: Written, kept_days: float, prefix: str) -> Finding:
    entry_bytes = stored.recent_bytes / stored.recent_entries
    a_day = written.entries / written.seconds * 86400
    days = limit / (entry_bytes * a_day)
    is_cut = 0 < kept_days < days
    days = kept_days if is_cut else days
    over = "" if written.seconds > 86000 else f", by {span(int(written.seconds * 1e6))}"
    why = "by MaxRetentionSec=; there is room for more" if is_cut else "that fit"
    text += f": {days:.1f} days {why}, at {entry_bytes:.0f} bytes an entry and {a_day:,.0f} entries a day of all{over}"
    values = {
        "used": stored.used_bytes,
        "limit": limit,
        "bytes_per_entry": round(entry_bytes),
        "entries_per_day": round(a_day),
        "days": round(days, 2),
    }
    setting = (
        "MaxRetentionSec=" if is_cut else f"{prefix}MaxUse=, and {prefix}MaxFileSize= where that is set,"
    )
    advice = (
        f"raise {setting} in journald.conf; or drop or count by rules what nobody needs (procwatchctl top)"
    )
    if days < VERY_FEW_DAYS:
        return fail("room", text, advice, **values)
    return warn("room", text, advice, **values) if days < FEW_DAYS else ok("room", text, **values)


def rate_limit(system: System) -> Iterator[Finding]:
    """What journald takes from the service."""
    if not system.unit:
        yield warn("rate limit", f"not looked at: {system.why_no_unit}")
    elif system.unit.get("LoadState") == "loaded":
        yield _rate_limit(system)


def suppressed(system: System) -> Iterator[Finding]:
    """What journald dropped of what the service sent."""
    since = system.now_usec - DAY_USEC
    notices = Entries(system.journal_root).having(*SUPPRESSED, since_usec=since, limit=SUPPRESSED_LIMIT)
    ours = [entry for entry in notices if str(entry.get("MESSAGE")).endswith(f" messages from {UNIT}")]
    if ours:
        count = sum(number_of(entry.get("N_DROPPED")) or 0 for entry in ours)
        more = "at least " if len(notices) == SUPPRESSED_LIMIT else ""
        yield fail(
            "rate limit",
            f"journald dropped {more}{count:,} entries of {UNIT} in the last day, the last time "
            f"{date(when_usec(ours[0]))}",
            _UNLIMITED,
            dropped=count,
        )


_UNLIMITED = (
    "systemctl edit procwatchd: LogRateLimitIntervalSec=1s, LogRateLimitBurst=1000000 (0 would do nothing)"
)


def _rate_limit(system: System) -> Finding:
    seconds = _seconds(system.unit.get("LogRateLimitIntervalUSec", ""))
    burst = number_of(system.unit.get("LogRateLimitBurst"))
    if not seconds or not burst:
        return _common_rate_limit(_settings(system))
    rate = burst / seconds
    text = f"journald takes {burst:,} entries in {seconds:g} s from the service"
    if rate < LOW_RATE:
        return warn(
            "rate limit", f"{text}, {rate:,.0f} a second: a burst loses entries", _UNLIMITED, rate=round(rate)
        )
    return ok("rate limit", text, rate=round(rate))


def _common_rate_limit(settings: Mapping[str, str]) -> Finding:
    """That of journald.conf, where the unit sets none."""
    seconds = _seconds(settings.get("RateLimitIntervalSec", "30s"))
    burst = number_of(settings.get("RateLimitBurst", "10000"))
    if not seconds or not burst:
        return ok("rate limit", "there is none, neither in the unit nor in journald.conf")
    text = f"the unit sets none, so that of journald.conf holds: {burst:,} entries in {seconds:g} s, or some times as "
    return warn("rate limit", f"{text}many where the disk has room; the rest is lost", _UNLIMITED)


# As systemd.time(7) has them.
_SPANS = {
    **dict.fromkeys(("us", "usec"), 1e-6),
    **dict.fromkeys(("ms", "msec"), 1e-3),
    **dict.fromkeys(("", "s", "sec", "second", "seconds"), 1.0),
    **dict.fromkeys(("m", "min", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hr", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86400.0),
    **dict.fromkeys(("w", "week", "weeks"), 604800.0),
    **dict.fromkeys(("M", "month", "months"), 2629800.0),
    **dict.fromkeys(("y", "year", "years"), 31557600.0),
}


def _seconds(text: str) -> float:
    """A span, such as `1s`, `1min 30s` or `2week`; 0 for what is none."""
    parts = re.findall(r"([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z]*)", text)
    return sum(float(value) * _SPANS.get(unit, 0.0) for value, unit in parts)


def _settings(system: System) -> Mapping[str, str]:
    """What journald is configured to do, with all drop-ins."""
    return _parse_settings(system.run(["systemd-analyze", "cat-config", "systemd/journald.conf"]))


@cache
def _parse_settings(text: str) -> Mapping[str, str]:
    lines = (line.strip() for line in text.splitlines())
    pairs = (line.partition("=") for line in lines if line[:1] not in ("#", ";", "["))
    return {name.strip(): value.strip() for name, equals, value in pairs if equals and value.strip()}


def _place(system: System) -> str:
    """Where journald writes now, by which of its files is the newest; "" where it has none."""
    written = {}
    for place in (PERSISTENT, VOLATILE):
        with contextlib.suppress(OSError):
            written[place] = os.stat(f"{_directory(system, place)}/system.journal").st_mtime_ns
    return max(written, key=lambda place: written[place], default="")


def _directory(system: System, place: str) -> str:
    return f"{system.journal_root}{place}/{system.machine_id}"


def _files(system: System, place: str) -> list[str]:
    return glob.glob(f"{glob.escape(_directory(system, place))}/*.journal*")


def _stored(files: Iterable[str], since_usec: int) -> Stored:
    used = recent_bytes = recent_entries = 0
    for path in files:
        try:
            with open(path, "rb") as file:
                taken = os.fstat(file.fileno()).st_blocks * 512
                signature, *fixed, last, entries, written_usec = _HEADER.unpack(file.read(_HEADER.size))
        except (OSError, struct.error):
            continue  # it was just removed, or is not ours to read
        used += taken
        if signature == b"LPKSHHRH" and entries and written_usec >= since_usec:
            recent_bytes += max(0, min(taken, last) - sum(fixed))
            recent_entries += entries
    return Stored(used, recent_bytes, recent_entries)


def _limit_bytes(place: str, used: int, settings: Mapping[str, str], prefix: str) -> int:
    """What journald may take in all."""
    found = os.statvfs(place)
    whole, free = found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
    most = _bytes(settings.get(f"{prefix}MaxUse")) or min(int(whole * USED_SHARE), DEFAULT_MOST_BYTES)
    kept = _bytes(settings.get(f"{prefix}KeepFree")) or min(int(whole * FREE_SHARE), DEFAULT_MOST_BYTES)
    file_most = _bytes(settings.get(f"{prefix}MaxFileSize")) or min(most // FILES_OF_ALL, FILE_MOST_BYTES)
    files = number_of(settings.get(f"{prefix}MaxFiles", FILES)) or sys.maxsize
    return min(most, files * file_most, used + max(0, free - kept))


def _bytes(text: str | None) -> int:
    """A size as journald.conf has it, to the base of 1024; 0 for none."""
    found = _SIZE.fullmatch(text or "")
    if text and found is None:
        raise CtlError(f"journald.conf has a size that is none: {printable(text)}")
    return int(float(found[1]) * 1024 ** " KMGTPE".index(found[2].upper() or " ")) if found else 0
