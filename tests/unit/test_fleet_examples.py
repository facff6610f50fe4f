# SPDX-License-Identifier: MIT
"""What is shipped for a fleet: whole files, which name fields, metrics and files that there are."""

from __future__ import annotations

import configparser
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from procwatchd.metrics import metrics_text

ROOT = Path(__file__).parents[2]
FLEET = ROOT / "packaging/fleet"
PAGE = (ROOT / "packaging/man/procwatchd-fleet.7").read_text()
FIELDS_PAGE = (ROOT / "packaging/man/procwatchd.fields.7").read_text()
FILES = sorted(path.name for path in FLEET.iterdir())
SYSTEMD_FILES = [name for name in FILES if re.search(r"^journal-.*\.conf$", name)]
METRICS_FILES = ["prometheus.rules.yml", "prometheus.rules.test.yml", "grafana.json"]

# In both, what stands in the journal beside our fields and in other names than theirs.
VECTOR = (FLEET / "vector.yaml").read_text()
FLUENT_BIT = (FLEET / "fluent-bit.yaml").read_text()


def known_fields() -> set[str]:
    """The names of all fields, without their prefix, by the manual."""
    heads = re.findall(r"^\.It Va (PROCWATCH_.*)$", FIELDS_PAGE, re.MULTILINE)
    return {name for head in heads for name in re.findall(r"PROCWATCH_(\w+)", head)}


def settings_of(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # as systemd reads them
    parser.read_string((FLEET / name).read_text())
    return parser


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((FLEET / "prometheus.rules.yml").read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


@pytest.mark.parametrize("name", FILES)
def test_each_file_is_in_the_manual_and_says_how_far_it_was_tested(name: str) -> None:
    head = (FLEET / name).read_text()[:900]
    assert f".It Pa {name}\n" in PAGE
    assert "SPDX-License-Identifier: MIT" in head
    if name not in ("certificates", "prometheus.rules.test.yml"):
        assert re.search(r"[Tt]ested|could not be had", head)


def test_the_manual_names_no_file_that_is_not_there() -> None:
    section = PAGE.split(".Sh FILES\n")[1].split("\n.Sh ")[0]
    assert sorted(re.findall(r"^\.It Pa (\S+)$", section, re.MULTILINE)) == FILES


@pytest.mark.parametrize("name", SYSTEMD_FILES)
def test_the_settings_for_systemd_are_sections_and_keys(name: str) -> None:
    parser = settings_of(name)
    assert parser.sections()
    assert all(re.fullmatch(r"[A-Z]\w+", key) for section in parser.sections() for key in parser[section])


@pytest.mark.parametrize("end", ["upload", "remote"])
def test_the_key_is_where_the_service_is_given_it(end: str) -> None:
    section = end.capitalize()
    key = settings_of(f"journal-{end}.conf")[section]["ServerKeyFile"]
    name, _, source = settings_of(f"journal-{end}.service.conf")["Service"]["LoadCredential"].partition(":")
    assert key == f"/run/credentials/systemd-journal-{end}.service/{name}"
    assert (
        Path(source).parent
        == Path(settings_of(f"journal-{end}.conf")[section]["ServerCertificateFile"]).parent
    )


def test_vector_takes_what_the_unit_wrote_and_sends_it_on() -> None:
    config = yaml.safe_load(VECTOR)
    (source,) = config["sources"].values()
    assert source["include_matches"] == {"_SYSTEMD_UNIT": ["procwatchd.service"]}
    ends = [*config["transforms"].values(), *config["sinks"].values()]
    assert {name for end in ends for name in end["inputs"]} <= {*config["sources"], *config["transforms"]}


def test_vector_maps_fields_there_are() -> None:
    program = yaml.safe_load(VECTOR)["transforms"]["ecs"]["source"]
    used = {name.upper() for name in re.findall(r"\bfields\.(\w+)", program)}
    assert len(used) >= 10
    assert used <= known_fields()


def test_fluent_bit_takes_what_the_unit_wrote_and_sends_it_on() -> None:
    pipeline = yaml.safe_load(FLUENT_BIT)["pipeline"]
    (source,) = pipeline["inputs"]
    assert source["systemd_filter"] == "_SYSTEMD_UNIT=procwatchd.service"
    assert {end["match"] for end in [*pipeline["filters"], *pipeline["outputs"]]} == {source["tag"]}


def test_fluent_bit_renames_fields_there_are() -> None:
    used = {name.upper() for name in re.findall(r"rename: procwatch_(\w+)", FLUENT_BIT)}
    assert len(used) >= 5
    assert used <= known_fields()


@pytest.mark.parametrize("file", METRICS_FILES)
def test_metrics_are_called_as_the_daemon_calls_them(file: str) -> None:
    asked = set(re.findall(r"\bprocwatchd_\w+", (FLEET / file).read_text()))
    served = set(
        re.findall(r"^(procwatchd_\w+) ", metrics_text(dict.fromkeys(known_fields(), 0), {}), re.MULTILINE)
    )
    assert asked
    assert asked <= served


def test_each_alert_has_a_test() -> None:
    tests = (FLEET / "prometheus.rules.test.yml").read_text()
    alerts = [rule["alert"] for rule in rules()]
    assert sorted(re.findall(r'alertname="(\w+)"', tests)) == sorted(alerts)


def test_each_alert_says_how_bad_it_is_and_what_it_means() -> None:
    for rule in rules():
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert "{{ $labels.instance }}" in rule["annotations"]["summary"]
        assert len(rule["annotations"]["description"]) > 20


def test_the_panels_have_a_place_each_and_say_what_they_show() -> None:
    panels = json.loads((FLEET / "grafana.json").read_text())["panels"]
    places = [
        (panel["gridPos"]["x"] + column, panel["gridPos"]["y"] + row)
        for panel in panels
        for column in range(panel["gridPos"]["w"])
        for row in range(panel["gridPos"]["h"])
    ]
    assert len(places) == len(set(places))
    assert max(column for column, _row in places) < 24
    assert all(panel["title"] and panel["description"] for panel in panels)
    assert len({panel["id"] for panel in panels}) == len(panels)
