# SPDX-License-Identifier: MIT
"""A machine for `doctor` to look at, made of files and of what commands say."""

from __future__ import annotations

import gzip
import os
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from procwatchd import __version__
from procwatchd.ctl.errors import CtlError
from procwatchd.ctl.health.doctor import examine
from procwatchd.ctl.health.machine import HELPFUL, NEEDED
from procwatchd.ctl.health.system import Finding, System

REMOTE = "/lib/systemd/systemd-journal-remote"
UNIT = "procwatchd.service"
BOOT = "1" * 32
MACHINE_ID = "a" * 32
OPTIONS = "".join(f"CONFIG_{name}=y\n" for name in (*NEEDED, *HELPFUL))
ALL_CAPABILITIES = "000001ffffffffff"
HEALTHY = {
    "LoadState": "loaded",
    "ActiveState": "active",
    "Result": "success",
    "NRestarts": "0",
    "UnitFileState": "enabled",
    "MainPID": "77",
    "NeedDaemonReload": "no",
    "StatusText": "12 entries logged",
    "LogRateLimitIntervalUSec": "1s",
    "LogRateLimitBurst": "1000000",
}
STOPPED = HEALTHY | {"ActiveState": "inactive", "MainPID": "0", "UnitFileState": "disabled"}
METRICS = {
    "PRODUCED": 12,
    "RECEIVED": 11,
    "FILTERED": 1,
    "LOST": 0,
    "MALFORMED": 0,
    "FOREIGN": 0,
    "UNNEEDED": 1,
    "CONSIDERED": 9,
    "PENDING": 1,
    "LOGGED": 5,
    "DROPPED": 4,
    "COUNTED": 0,
    "LIMITED": 0,
    "UNWRITTEN": 0,
    "PROCESSES": 200,
    "QUEUED": 3,
    "BLIND": 0,
}
NOW = 2_000_000_000_000_000
DAY = 86_400_000_000


class Machine:
    """A machine in a directory, on which all is well; and what is changed of it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.unit: Mapping[str, str] | str = HEALTHY
        self.settings = "[Journal]\n#Storage=none\n"
        for path, text in {
            "proc/sys/kernel/osrelease": "6.12.1-amd64\n",
            "proc/sys/net/core/rmem_max": "212992\n",
            "proc/sys/net/core/bpf_jit_enable": "1\n",
            "proc/1/status": f"Name:\tinit\nCapBnd:\t{ALL_CAPABILITIES}\n",
            "proc/77/status": f"Name:\tprocwatchd\nCapEff:\t{ALL_CAPABILITIES}\n",
            "proc/net/connector": "Name            ID\ncn_proc         1:1\n",
            "sys/kernel/btf/vmlinux": "BTF",
            "sys/kernel/security/lockdown": "[none] integrity confidentiality\n",
            "etc/passwd": "root:x:0:0::/root:/bin/sh\nprocwatchd:x:990:990::/:/bin/false\n",
            "etc/group": "root:x:0:\nprocwatchd:x:990:\n",
            "etc/machine-id": f"{MACHINE_ID}\n",
            "proc/sys/kernel/random/boot_id": f"{uuid.UUID(BOOT)}\n",
            "etc/procwatchd.yaml": "log: {unmatched: drop}\n",
            "var/lib/procwatchd/redaction.key": "k" * 32,
        }.items():
            self.write(path, text)
        (root / "var/lib/procwatchd/redaction.key").chmod(0o600)
        os.chown(root / "var/lib/procwatchd/redaction.key", 990, 990)
        (root / "proc/config.gz").write_bytes(gzip.compress(OPTIONS.encode()))
        for pid in ("self", "1", "77"):
            for name, number in {"user": 0xEFFFFFFD, "pid": 0xEFFFFFFC, "net": 4026531840}.items():
                self.link(f"proc/{pid}/ns/{name}", f"{name}:[{number}]")
        self.metrics(METRICS)
        (root / "var/log/journal").mkdir(parents=True)

    def write(self, path: str, text: str) -> Path:
        made = self.root / path
        made.parent.mkdir(parents=True, exist_ok=True)
        made.write_text(text)
        return made

    def link(self, path: str, target: str) -> None:
        made = self.root / path
        made.parent.mkdir(parents=True, exist_ok=True)
        made.unlink(missing_ok=True)
        made.symlink_to(target)

    def metrics(
        self, counts: Mapping[str, int], version: str = __version__, *, age_seconds: int = 10
    ) -> None:
        lines = [f'procwatchd_info{{version="{version}"}} 1\n']
        lines += [f"procwatchd_{term.lower()} {count}\n" for term, count in counts.items()]
        path = self.write("run/procwatchd/metrics.prom", "".join(lines))
        os.utime(path, (NOW / 1e6 - age_seconds,) * 2)

    def journal(self, *entries: Mapping[str, str]) -> None:
        """What systemd-journal-remote makes of these entries, one a second up to now."""
        directory = self.root / "var/log/journal" / MACHINE_ID
        directory.mkdir()
        data = b""
        for at, entry in enumerate(entries):
            age = int(entry.get("AGE", (len(entries) - at) * 1_000_000))
            head = {
                "__REALTIME_TIMESTAMP": NOW - age,
                "__MONOTONIC_TIMESTAMP": NOW // 10 - age,
                "_BOOT_ID": BOOT,
            }
            fields = {name: str(value) for name, value in (head | dict(entry)).items() if name != "AGE"}
            data += "".join(f"{name}={value}\n" for name, value in fields.items()).encode() + b"\n"
        command = [REMOTE, "-o", str(directory / "system.journal"), "-"]
        subprocess.run(command, input=data, check=True, capture_output=True)

    def run(self, words: Sequence[str]) -> str:
        if words[0] == "systemctl":
            if isinstance(self.unit, str):
                raise CtlError(self.unit)
            return "".join(f"{name}={value}\n" for name, value in self.unit.items())
        assert words == ["systemd-analyze", "cat-config", "systemd/journald.conf"]
        return self.settings

    def system(self) -> System:
        made = System(str(self.root), self.run, is_root=False)
        made.now_usec, made.monotonic_usec = NOW, NOW // 10
        return made

    def found(self, check: str) -> list[Finding]:
        return [one for findings in examine(self.system()).values() for one in findings if one.check == check]


def told(event: str, **fields: object) -> dict[str, str]:
    """An entry of the daemon's."""
    named = {
        f"PROCWATCH_{name}": str(value) for name, value in fields.items() if name.isupper() and name != "AGE"
    }
    more = {"AGE": str(fields["AGE"])} if "AGE" in fields else {}
    return (
        {"_SYSTEMD_UNIT": UNIT, "_UID": "990", "MESSAGE": f"{event}: it", "PROCWATCH_EVENT": event}
        | named
        | more
    )
