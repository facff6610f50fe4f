# SPDX-License-Identifier: MIT
"""What `procwatchctl plot` draws, as a real browser has it: its own layout, and its pixels."""

from __future__ import annotations

import html
import itertools
import json
import re
import struct
import subprocess
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from procwatchd.ctl.main import main

START_USEC = 1_790_000_000_000_000
WIDTH, HEIGHT = 1400, 420
HOSTILE = (
    "\u05e9\u05dc\u05d5\u05dd\u05e2\u05d5\u05dc\u05dd",
    "\ufdfd" * 6,
    "z" + "\u0301\u0327\u0334" * 40,
    "\U0001f469" * 30,
    "]]></svg><text x='-500'>&amp;\"'",
    "\u202e\x1b[31m\x00\x07",
    "W" * 4_000,
)

# Written into the document where the test finds it: what the browser made of it, before and after a click.
MEASURE = """
const box = (e) => { const b = e.getBoundingClientRect(); return [b.left, b.top, b.right, b.bottom]; };
const all = (from, what) => [...from.querySelectorAll(what)];
const under = (e) => { const b = e.getBoundingClientRect();
  return document.elementFromPoint((b.left + b.right) / 2, (b.top + b.bottom) / 2).textContent.trim(); };
const look = () => ({
  page: box(document.documentElement),
  foot: box(document.getElementById("foot")),
  marks: all(document, ".mark").map((mark) => [box(mark), under(mark)]),
  ground: ["y", "height"].map((name) => document.getElementById("ground")[name].baseVal.value),
  rows: all(document, ".row").map((row) => ({
    box: box(row.querySelector(".stripe")),
    bars: all(row, "path.bar").map((bar) => [box(bar), bar.querySelector("title").textContent]),
    texts: all(row, "text").map((text) => [box(text), text.textContent]),
    clips: all(row, "svg").map((clip) => [
      ["x", "y", "width", "height"].map((name) => clip[name].baseVal.value),
      box(clip.querySelector("text")), clip.querySelector("text").textContent, box(clip.parentNode)]),
  })),
});
const found = {before: look()};
const first = document.querySelector(".row");
first.querySelector(".stripe").dispatchEvent(new MouseEvent("click", {bubbles: true}));
found.folded = look();
first.querySelector(".stripe").dispatchEvent(new MouseEvent("click", {bubbles: true}));
found.after = look();
document.documentElement.setAttribute("data-found", JSON.stringify(found));
"""


def entry(
    event: str, pid: int, at: int, comm: str, parent: tuple[int, str], **more: object
) -> dict[str, str]:
    ppid, pcomm = parent
    fields = {
        "EVENT": event,
        "PID": pid,
        "PROCESS_ID": f"{pid}-1",
        "MONOTONIC_USEC": at,
        "COMM": comm,
        "EXE": f"/usr/bin/{comm}",
        "CMDLINE": f"{comm} -o {pid}",
        "PARENT_PROCESS_ID": f"{ppid}-1",
        "PARENT_COMM": pcomm,
        "PPID": ppid,
        "UNIT": f"{comm}.service",
        **more,
    }
    named = {f"PROCWATCH_{name}": str(value) for name, value in fields.items()}
    return {"__REALTIME_TIMESTAMP": str(START_USEC + at), "_BOOT_ID": "b", "_HOSTNAME": "host"} | named


def life(
    pid: int, at: int, lasted: int, comm: str, parent: tuple[int, str], **end: object
) -> Iterator[dict[str, str]]:
    yield entry("exec", pid, at, comm, parent)
    yield entry("exit", pid, at + lasted, comm, parent, DURATION_USEC=lasted, **({"EXIT_CODE": 0} | end))


def a_build() -> Iterator[dict[str, str]]:
    """make, 40 times gcc with cc1 and as below it, one that fails, one that is killed, and a daemon that goes on."""
    make = (10, "make")
    yield entry("exec", 10, 0, "make", (1, "systemd"))
    yield entry("exec", 11, 10, "logger", (1, "systemd"))
    for n in range(40):
        at, gcc = 1_000 + 50_000 * n, (100 + 3 * n, "gcc")
        yield from life(gcc[0], at, 90_000, "gcc", make, EXIT_CODE=int(n == 7))
        yield from life(gcc[0] + 1, at + 1_000, 60_000, "cc1", gcc)
        yield from life(gcc[0] + 2, at + 62_000, 20_000, "as", gcc)
    yield from life(900, 2_100_000, 500, "strip", make, EXIT_SIGNAL="SIGSEGV")
    for kind, since in (("loss", 300_000), ("blind", 1_800_000)):
        at = since + 400_000
        more = {"SINCE_USEC": since, "UNTIL_USEC": since + 300_000, "COUNT": 5, "LOST_WHERE": "kernel"}
        yield entry(kind, 0, at, "?", (0, ""), **more) | {"MESSAGE": f"{kind}: told at {at}"}
    yield from life(10, 0, 2_200_000, "make", (1, "systemd"))


def many() -> Iterator[dict[str, str]]:
    """So many at once that they cannot be bars."""
    for n in range(2_000):
        yield from life(100 + n, 1_000 * n, 400_000, "worker", (1, "systemd"), EXIT_CODE=int(n % 50 == 0))


def hostile() -> Iterator[dict[str, str]]:
    """Each name as that of a process, its command line, unit, user and host."""
    for n, name in enumerate(HOSTILE):
        for one in life(100 + n, 1_000_000 * n, 300_000, name, (1, name), USER=name, CMDLINE=name, EXE=name):
            yield one | {"_HOSTNAME": name}


SCENES = {"build": a_build, "many": many, "hostile": hostile}


@dataclass(frozen=True)
class Scene:
    name: str
    svg: Path
    found: dict[str, Any]


@pytest.fixture(scope="module", params=sorted(SCENES))
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    directory = tmp_path_factory.mktemp("plot")
    entries = sorted(SCENES[request.param](), key=lambda one: int(one["__REALTIME_TIMESTAMP"]))
    (directory / "entries").write_text("".join(json.dumps(one) + "\n" for one in entries))
    svg = directory / "lives.svg"
    assert main(["plot", "--file", str(directory / "entries"), "--colour", "unit", "-o", str(svg)]) == 0
    measured = directory / "measured.svg"
    measured.write_text(svg.read_text().rpartition("</svg>")[0] + script())
    dom = browse(measured, "--dump-dom").decode()
    found = re.search(r'data-found="([^"]*)"', dom)
    assert found is not None
    return Scene(request.param, svg, json.loads(html.unescape(found[1])))


def script() -> str:
    return f"<script>{html.escape(MEASURE, quote=False)}</script></svg>"


def browse(svg: Path, *words: str) -> bytes:
    """Have the browser open a file; gives what it prints."""
    profile = svg.parent / "profile"
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
    size = ["--hide-scrollbars", f"--window-size={WIDTH},{HEIGHT}"]
    done = subprocess.run([*command, *size, *words, svg.as_uri()], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def is_apart(one: list[float], other: list[float]) -> bool:
    slack = 0.02  # of numbers with two digits behind the point
    return (
        one[2] <= other[0] + slack
        or other[2] <= one[0] + slack
        or one[3] <= other[1] + slack
        or other[3] <= one[1] + slack
    )


def is_within(inner: list[float], outer: list[float], slack: float = 0.5) -> bool:
    return (
        inner[0] >= outer[0] - slack
        and inner[1] >= outer[1] - slack
        and inner[2] <= outer[2] + slack
        and inner[3] <= outer[3] + slack
    )


def test_bars_are_apart_and_within_their_rows(scene: Scene) -> None:
    before = scene.found["before"]
    bars = 0
    for row in before["rows"]:
        assert is_within(row["box"], before["page"])
        boxes = [box for box, _ in row["bars"]]
        bars += len(boxes)
        assert all(is_within(box, row["box"]) for box in boxes)
        # Parts of a band are on top of each other, and touch.
        if scene.name != "many":
            assert all(is_apart(one, other) for one, other in itertools.combinations(boxes, 2))
    assert bars == {"build": 123, "many": 1, "hostile": len(HOSTILE)}[scene.name]


def test_rows_are_apart(scene: Scene) -> None:
    boxes = [row["box"] for row in scene.found["before"]["rows"]]
    assert len(boxes) == {"build": 7, "many": 2, "hostile": 1 + len(HOSTILE)}[scene.name]
    assert all(is_apart(one, other) for one, other in itertools.pairwise(boxes))


def test_each_bar_says_what_it_is(scene: Scene) -> None:
    titles = [title for row in scene.found["before"]["rows"] for _, title in row["bars"]]
    assert all(title.strip() for title in titles)
    assert all("\x1b" not in title and "\u202e" not in title for title in titles)
    if scene.name == "build":
        assert sum("gcc[" in title and "code 1\n" in title for title in titles) == 1
        assert any("strip[900]: SIGSEGV\nstrip -o 900\n" in title for title in titles)
    if scene.name == "hostile":
        assert any(HOSTILE[4] in title for title in titles)


def test_texts_fit(scene: Scene) -> None:
    """As drawn; of what fonts have otherwise than a terminal, what is too much is clipped."""
    before = scene.found["before"]
    for row in before["rows"]:
        for (x, y, width, height), text, words, around in row["clips"]:
            assert width >= 0
            assert x >= 0 or around[0] + x >= 0
            assert y + height <= row["box"][3] - row["box"][1] + 0.5
            if scene.name != "hostile":
                assert text[2] - text[0] <= width + 0.5, words
        if scene.name != "hostile":
            texts = [box for box, _ in row["texts"]]
            assert all(is_within(box, before["page"]) for box in texts)
            assert all(is_apart(one, other) for one, other in itertools.combinations(texts, 2))


def test_what_others_wrote_is_nowhere_but_in_its_place(scene: Scene) -> None:
    for row in scene.found["before"]["rows"]:
        clipped = [words for _, _, words, _ in row["clips"]]
        others = [words for _, words in row["texts"] if words not in clipped]
        assert all(
            re.fullmatch(r"\xd7 [0-9 ]+|[0-9 ]+ failed|at most [0-9 ]+ in \S+", words) for words in others
        )


def test_a_click_folds_and_unfolds(scene: Scene) -> None:
    before, folded, after = (scene.found[name] for name in ("before", "folded", "after"))
    assert after == before
    hidden = [row["box"] for row in folded["rows"] if row["box"][3] == row["box"][1]]
    below = {"build": 6, "many": 1, "hostile": len(HOSTILE)}[scene.name]
    assert len(hidden) == below
    lower = sum(row["box"][3] - row["box"][1] for row in before["rows"][1 : 1 + below])
    assert folded["foot"][1] == pytest.approx(before["foot"][1] - lower, abs=0.1)


def test_what_is_missing_is_under_the_pointer_on_the_axis(scene: Scene) -> None:
    told = ["loss: told at 700000", "blind: told at 2200000"] if scene.name == "build" else []
    for look in (scene.found["before"], scene.found["folded"]):
        assert [title for _, title in look["marks"]] == told
        for (left, top, right, bottom), _ in look["marks"]:
            assert right - left >= 8
            assert top < bottom <= look["rows"][0]["box"][1]


def test_what_goes_through_the_rows_ends_with_them(scene: Scene) -> None:
    for look in (scene.found["before"], scene.found["folded"]):
        top, height = look["ground"]
        seen = [row["box"] for row in look["rows"] if row["box"][3] > row["box"][1]]
        assert top == pytest.approx(seen[0][1], abs=0.1)
        assert top + height == pytest.approx(seen[-1][3], abs=0.1)


def test_it_looks_the_same_without_scripts(scene: Scene) -> None:
    with_scripts = picture(scene.svg)
    assert picture(scene.svg, "--blink-settings=scriptEnabled=false") == with_scripts
    colours = colours_of(with_scripts)
    assert colours.most_common(1)[0][0] == (255, 255, 255)
    assert colours[53, 183, 121] > 100  # the first unit's bars
    assert len(colours) > 20


def test_it_is_dark_where_all_is_dark(scene: Scene) -> None:
    colours = colours_of(picture(scene.svg, "--force-dark-mode"))
    assert colours.most_common(1)[0][0] == (20, 23, 27)
    assert colours[53, 183, 121] > 100


def picture(svg: Path, *words: str) -> bytes:
    """What one sees, as PNG."""
    png = svg.parent / "shot.png"
    browse(svg, f"--screenshot={png}", *words)
    return png.read_bytes()


def colours_of(png: bytes) -> Counter[tuple[int, ...]]:
    """How many pixels there are of each colour, of 8 bits each, not interlaced."""
    at, packed, width, channels = 8, b"", 0, 0
    while at < len(png):
        length, name = struct.unpack_from(">I4s", png, at)
        body = png[at + 8 : at + 8 + length]
        if name == b"IHDR":
            width, channels = struct.unpack(">I", body[:4])[0], {2: 3, 6: 4}[body[9]]
        elif name == b"IDAT":
            packed += body
        at += length + 12
    colours: Counter[tuple[int, ...]] = Counter()
    for line in lines_of(zlib.decompress(packed), width * channels, channels):
        colours.update(zip(*(line[channel::channels] for channel in range(3)), strict=True))
    return colours


def lines_of(raw: bytes, length: int, channels: int) -> Iterator[bytearray]:
    """The lines of a picture as they were before each was filtered [PNG, 9.2]."""
    above = bytearray(length)
    for at in range(0, len(raw), length + 1):
        line = bytearray(raw[at + 1 : at + 1 + length])
        unfilter(raw[at], line, above, channels)
        yield line
        above = line


def unfilter(kind: int, line: bytearray, above: bytearray, channels: int) -> None:
    for i in range(len(line) if kind else 0):
        left = line[i - channels] if i >= channels else 0
        corner = above[i - channels] if i >= channels else 0
        up = above[i]
        line[i] = line[i] + (left, up, (left + up) // 2, nearest(left, up, corner))[kind - 1] & 0xFF


def nearest(left: int, up: int, corner: int) -> int:
    return min((left, up, corner), key=lambda one: abs(left + up - corner - one))
