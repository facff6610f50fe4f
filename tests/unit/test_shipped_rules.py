# SPDX-License-Identifier: MIT
"""The rules that are shipped to choose from: each has samples that it must decide or tag, and such that it must not.

They hold with the file that they are of laid over the shipped main file, as its head says, and with all files together.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from procwatchd.config import Config, load_config
from procwatchd.ctl.rules.check import useless
from procwatchd.process.cgroup import Place
from procwatchd.process.model import Context, Creds, Image, Process, Record
from procwatchd.process.users import Users
from procwatchd.rules.ruleset import RuleSet

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "etc/procwatchd.d").glob("*.yaml"))
SAMPLES = {
    path.name: yaml.safe_load(path.read_text(encoding="utf-8"))
    for path in (ROOT / "tests/data/rules").glob("*.yaml")
}
RULES = [(file, name) for file, rules in sorted(SAMPLES.items()) for name in rules]
# Below whom anything may be started, with the tag that it has from there.
PARENTS = {
    "/usr/lib/openssh/sshd-session": "ssh",
    "/usr/sbin/cron": "cron",
    "/usr/sbin/nginx": "web-server",
    "/usr/bin/sudo": "sudo",
}
SILENCES = re.compile(r"^    (?:action: (?:count|drop)|limit: .*)$", re.MULTILINE)
USERS = Users(lambda _: None, passwd_path="/nonexistent")


def enabled(path: Path) -> list[Path]:
    """The files that the command in a file's head installs."""
    command = re.search(r"^#   (install -m 644 .*?) && ", path.read_text(encoding="utf-8"), re.MULTILINE)
    names = re.findall(r"[\w-]+\.yaml", command[1]) if command else []
    return [path.with_name(name) for name in names]


def configured(directory: Path, files: list[Path]) -> Config:
    """The shipped main file, with these enabled as their heads say."""
    drop_ins = directory / "procwatchd.d"
    drop_ins.mkdir(mode=0o755)
    for source in (ROOT / "etc/procwatchd.yaml", *files):
        target = (drop_ins if source in files else directory) / source.name
        shutil.copyfile(source, target)
        target.chmod(0o644)
    return load_config(main_file=str(directory / "procwatchd.yaml"), drop_in_directory=str(drop_ins))


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> RuleSet:
    return configured(tmp_path_factory.mktemp("all"), FILES).rules


def process(sample: dict[str, Any]) -> Process:
    """The process of a sample; what is not said of it is ordinary."""

    def encoded(key: str) -> bytes | None:
        return sample[key].encode() if key in sample else None

    place = Place(b"/", encoded("unit"), encoded("user-unit"), None, None, encoded("container"))
    argv = b"".join(word.encode() + b"\0" for word in sample.get("cmdline", sample["exe"]).split(" "))
    uid = sample.get("uid", 1000)
    made = Process(
        99,
        1,
        process(sample["parent"]) if "parent" in sample else None,
        sample.get("ppid", 77),
        sample["exe"].rpartition("/")[2].encode()[:15],
        Image(sample["exe"].encode(), argv, len(argv), b"", "same"),
        Context(
            tty=sample.get("tty"),
            loginuid=sample.get("loginuid"),
            place=place,
            host_mounts=sample.get("host", True),
        ),
        Creds(uid, sample.get("euid", uid), uid, uid, USERS),
    )
    made.tags = tuple(sample.get("tags", ()))
    return made


def record(sample: dict[str, Any]) -> Record:
    status = sample.get("code", 0) << 8 | sample.get("signal", 0)
    event = sample.get("event", "exec")
    return Record(event, process(sample), 0, "proc", "same", wait_status=status if event == "exit" else None)


def holds(rules: RuleSet, name: str, sample: dict[str, Any]) -> bool:
    """Whether the rule decides on a sample, or if it tags, is among those that give it something."""
    rule = next(rule for rule in rules.rules if rule.name == name)
    decision = rules.decide(record(sample))
    return set(rule.tags) <= set(decision.tags) if rule.action == "tag" else decision.rule == name


def test_every_rule_has_samples() -> None:
    named = {
        path.name: re.findall(r"^  - name: (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        for path in FILES
    }
    assert {file: list(rules) for file, rules in SAMPLES.items()} == named
    assert min(len(of[kind]) for rules in SAMPLES.values() for of in rules.values() for kind in of) >= 2
    assert all(of.keys() == {"matches", "others"} for rules in SAMPLES.values() for of in rules.values())


@pytest.mark.parametrize(("file", "name"), RULES)
def test_samples_with_all_files(everything: RuleSet, file: str, name: str) -> None:
    samples = SAMPLES[file][name]
    assert [each for each in samples["matches"] if not holds(everything, name, each)] == []
    assert [each for each in samples["others"] if holds(everything, name, each)] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_samples_with_this_file_alone(tmp_path: Path, path: Path) -> None:
    rules = configured(tmp_path, enabled(path)).rules
    for name, samples in SAMPLES[path.name].items():
        assert [each for each in samples["matches"] if not holds(rules, name, each)] == []
        assert [each for each in samples["others"] if holds(rules, name, each)] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_its_head_says_how_it_is_enabled(path: Path) -> None:
    rules, target = "/usr/share/procwatchd/rules", "/etc/procwatchd.d/ && systemctl reload procwatchd\n"
    files = enabled(path)
    one = f"\n#   install -m 644 {rules}/{path.name} {target}"
    more = f"\n#   cd {rules}\n#   install -m 644 {' '.join(file.name for file in files)} {target}"
    assert path in files
    assert (one if len(files) == 1 else more) in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_its_head_enables_is_all_of_use(tmp_path: Path, path: Path) -> None:
    assert list(useless(configured(tmp_path, enabled(path)))) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_examples_in_its_comments_are_valid(tmp_path: Path, path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    examples = re.sub(r"^  # (?=- name: |  )", "  ", text, flags=re.MULTILINE)
    examples = re.sub(r"^    # (?=[a-z]+: )", "    ", examples, flags=re.MULTILINE)
    (tmp_path / path.name).write_text(examples, encoding="utf-8")
    shown = len(re.findall(r"^  (?:# )?- name: ", text, re.MULTILINE))
    assert len(load_config(str(tmp_path / path.name)).rules.rules) == shown


def below(parent: str, sample: dict[str, Any]) -> dict[str, Any]:
    """A sample as this parent would have started it."""
    return {**sample, "parent": {"exe": parent, "uid": 0}, "tags": [*sample.get("tags", ()), PARENTS[parent]]}


def lasting(path: Path) -> list[str]:
    """The rules of a file whose tags are inherited; none of one that silences: what is detected first is then not."""
    text = path.read_text(encoding="utf-8")
    named = re.split(r"^  - name: ", text, flags=re.MULTILINE)[1:]
    found = [rule.partition("\n")[0] for rule in named if "\n    inherit: true\n" in rule]
    return [] if SILENCES.search(text) else found


@pytest.mark.parametrize("other", FILES, ids=lambda path: path.name)
@pytest.mark.parametrize("path", [path for path in FILES if lasting(path)], ids=lambda path: path.name)
def test_no_other_file_takes_an_inherited_tag_away(tmp_path: Path, path: Path, other: Path) -> None:
    rules = configured(tmp_path, sorted({*enabled(path), *enabled(other)})).rules
    for name in lasting(path):
        samples = [below(parent, each) for parent in PARENTS for each in SAMPLES[path.name][name]["matches"]]
        assert [each for each in samples if not holds(rules, name, each)] == []


def test_three_tags_are_inherited_whoever_decides() -> None:
    assert [name for path in FILES for name in lasting(path)] == ["sudo", "web-server", "package-manager"]


def test_what_silences_comes_last() -> None:
    last = [path.name for path in FILES if SILENCES.search(path.read_text(encoding="utf-8"))]
    assert last
    assert all(name.startswith("9") for name in last)
