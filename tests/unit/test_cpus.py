# SPDX-License-Identifier: MIT
"""Lists of CPUs."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from procwatchd.kernel import cpus
from procwatchd.kernel.cpus import format_cpus, isolated, parse_cpus


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("", set()),
        ("\n", set()),
        ("(null)\n", set()),  # what nohz_full has where there are none
        ("0\n", {0}),
        ("0-3\n", {0, 1, 2, 3}),
        ("0,2-4,10\n", {0, 2, 3, 4, 10}),
        ("5-5", {5}),
    ],
)
def test_parse(text: str, numbers: set[int]) -> None:
    assert parse_cpus(text) == numbers


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        (set(), ""),
        ({0}, "0"),
        ({1, 0}, "0-1"),
        ({10, 2, 0, 3, 4}, "0,2-4,10"),
        ({127, 128, 1}, "1,127-128"),
    ],
)
def test_format(numbers: set[int], text: str) -> None:
    assert format_cpus(numbers) == text


@given(st.sets(st.integers(0, 8191), max_size=100))
def test_what_is_formatted_is_parsed(numbers: set[int]) -> None:
    assert parse_cpus(format_cpus(numbers)) == numbers


def test_isolated_are_both_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpus, "_DIRECTORY", str(tmp_path))
    assert isolated() == set()
    (tmp_path / "isolated").write_text("2-3\n")
    assert isolated() == {2, 3}
    (tmp_path / "nohz_full").write_text("3,5\n")
    assert isolated() == {2, 3, 5}
