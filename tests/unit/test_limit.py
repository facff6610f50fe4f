# SPDX-License-Identifier: MIT
"""Limits: what is over them, and who does not suffer from it."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from procwatchd.process.cgroup import Place
from procwatchd.process.model import Context, Creds, Image, Process, Record
from procwatchd.process.users import Users
from procwatchd.rules import limit as limit_module
from procwatchd.rules.limit import By, Limits, Rate, Suppression
from procwatchd.rules.names import resolve

SECOND = 1_000_000_000
USERS = Users(lambda _: None, passwd_path="/nonexistent")


def execed(
    at_ns: int,
    *,
    unit: str | None = "a.service",
    uid: int = 0,
    exe: str = "/bin/a",
    slice_: str = "system.slice",
    user_namespace: int | None = None,
) -> Record:
    place = None if unit is None else Place(b"/", unit.encode(), None, slice_.encode(), None, None)
    context = Context(place=place, user_namespace=user_namespace)
    image = Image(exe.encode(), exe.encode() + b"\0", len(exe) + 1, b"", "same")
    of = Process(5, 1, None, 1, b"a", image, context, Creds(uid, uid, uid, uid, USERS))
    return Record("exec", of, at_ns, "proc", "same")


def of_rule(events: int, seconds: int, *keys: str) -> Suppression:
    by = tuple(By(key, key.upper(), resolve(key).get) for key in keys)
    return Suppression("r", by, rate=Rate(events, seconds * SECOND))


def logged(
    limits: Limits, records: list[Record], suppression: Suppression | None = None, alarm: str | None = None
) -> list[bool]:
    return [limits.suppressed(record, suppression, alarm) is None for record in records]


def test_without_limits_all_is_logged() -> None:
    assert logged(Limits(), [execed(0)] * 1000) == [True] * 1000


def test_a_rule_that_counts_silences_all_by_group() -> None:
    count = Suppression("r", (By("exe", "EXE", resolve("exe").get), By("tty", "TTY", resolve("tty").get)))
    assert Limits().suppressed(execed(0, exe="/bin/b"), count) == (count, (b"/bin/b", None))


def test_a_rate_is_a_burst_and_then_as_many_as_drain() -> None:
    limits, suppression = Limits(), of_rule(3, 60)
    assert logged(limits, [execed(0)] * 5, suppression) == [True, True, True, False, False]
    assert logged(limits, [execed(19 * SECOND)], suppression) == [False]
    assert logged(limits, [execed(20 * SECOND)] * 2, suppression) == [True, False]
    assert logged(limits, [execed(999 * SECOND)] * 4, suppression) == [True, True, True, False]


def test_an_event_from_before_the_last_one_changes_nothing() -> None:
    limits, suppression = Limits(), of_rule(2, 10)
    times = [100, 90, 100, 105]
    assert logged(limits, [execed(at * SECOND) for at in times], suppression) == [True, True, False, True]


def test_groups_and_rules_have_limits_of_their_own() -> None:
    limits, one, other = Limits(), of_rule(1, 60, "exe"), of_rule(1, 60)
    a, b = execed(0, exe="/bin/a"), execed(0, exe="/bin/b")
    assert logged(limits, [a, b, a], one) == [True, True, False]
    assert logged(limits, [a, b], other) == [True, False]


def test_long_values_are_told_apart_to_their_end() -> None:
    limits, suppression = Limits(), of_rule(1, 60, "exe")
    long = "/" + "x" * 4000
    records = [execed(0, exe=long + end) for end in "aba"]
    assert logged(limits, records, suppression) == [True, True, False]
    assert max(len(str(part)) for key in limits._of_rules[suppression] for part in key) < 30  # type: ignore[attr-defined]


def test_a_rules_limit_is_not_for_groups_beyond_those_it_has_room_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limit_module, "GROUPS_LIMIT", 2)
    limits, suppression = Limits(), of_rule(1, 60, "exe")
    records = [execed(0, exe=f"/bin/{n}") for n in (0, 1, 0, 1, 2, 3, 2)]
    assert logged(limits, records, suppression) == [True, True, False, False, True, True, True]
    assert (limits.shared, len(limits._of_rules[suppression])) == (3, 2)
    limits.forget(61 * SECOND)
    assert logged(limits, [execed(61 * SECOND, exe="/bin/9")] * 2, suppression) == [True, False]
    assert limits.shared == 3


def test_who_fills_the_groups_of_a_rule_is_left_to_the_limit_of_all() -> None:
    limits, suppression = Limits(), of_rule(1, 60, "exe")
    limits.configure(Rate(2000, 60 * SECOND))
    filling = [execed(0, exe=f"/bin/{n}", unit="a.service") for n in range(5000)]
    assert logged(limits, filling, suppression).count(True) == 2000
    other = [execed(0, exe=f"/bin/b{n}", unit="b.service") for n in range(10)]
    assert logged(limits, other, suppression) == [True] * 10


def test_the_noise_of_a_user_does_not_hide_his_alarm() -> None:
    limits = Limits()
    limits.configure(Rate(100, 10 * SECOND))
    assert logged(limits, [execed(0)] * 300).count(True) == 100
    assert logged(limits, [execed(0)] * 80, alarm="bad").count(True) == 50
    assert logged(limits, [execed(0)] * 80, alarm="worse").count(True) == 33
    silenced = [limits.suppressed(execed(0), None, alarm) for alarm in (None, "bad", "bad", "worse")]
    suppressions = [found[0] for found in silenced if found is not None]
    assert [each.rule for each in suppressions] == [None, "bad", "bad", "worse"]
    assert suppressions[1] is suppressions[2]
    # Nor does it take from other units.
    assert logged(limits, [execed(0, unit="quiet.service")] * 50) == [True] * 50


def test_where_users_or_units_have_no_room_alarms_are_still_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limit_module, "USERS_LIMIT", 2)
    monkeypatch.setattr(limit_module, "GROUPS_LIMIT", 2)
    limits = Limits()
    limits.configure(Rate(100, 10 * SECOND))
    logged(limits, [execed(0, unit=f"{n % 9}.service", uid=n) for n in range(500)])
    for unit in ("0.service", "8.service"):
        assert logged(limits, [execed(0, unit=unit, uid=77)], alarm="bad") == [True]
    alarms = [execed(0, unit=f"{n % 9}.service", uid=n) for n in range(500)]
    assert logged(limits, alarms, alarm="bad").count(True) < 50
    assert max(map(len, limits._units.values())) <= 2 + 2


def test_who_was_silent_for_long_is_forgotten() -> None:
    limits, suppression = Limits(), of_rule(10, 10, "exe")
    limits.configure(Rate(100, 10 * SECOND))
    for n in range(50):
        limits.suppressed(execed(0, exe=f"/bin/{n}", unit=f"{n}.service", uid=n), suppression)
    limits.forget(SECOND // 2)
    assert (len(limits._of_rules[suppression]), len(limits._units)) == (50, 50)
    limits.forget(10 * SECOND)
    assert (len(limits._of_rules[suppression]), len(limits._units)) == (0, 0)


def test_the_limit_of_all_holds_for_one() -> None:
    limits = Limits()
    limits.configure(Rate(100, 10 * SECOND))
    assert logged(limits, [execed(0)] * 150).count(True) == 100
    assert logged(limits, [execed(n * SECOND // 1000) for n in range(10_000)]).count(True) == 99


def flood(limits: Limits, others: list[Record], **noisy: object) -> Counter[str]:
    """So many a second of one over 60 seconds, among others; gives what was logged and what was not."""
    found: Counter[str] = Counter()
    records = [(execed(n * SECOND // 500, **noisy), "noisy") for n in range(30_000)]  # type: ignore[arg-type]
    records += [(other, "other") for other in others]
    for n, (record, whose) in enumerate(sorted(records, key=lambda each: each[0].monotonic_ns)):
        found[f"{whose} {limits.suppressed(record, None) is None}"] += 1
        if not n % 500:
            limits.forget(record.monotonic_ns)
    return found


def test_the_noise_of_one_hides_no_one_else() -> None:
    """100 a second at most; 500 a second of one user, and of 80 others in many units one now and then."""
    limits = Limits()
    limits.configure(Rate(1000, 10 * SECOND))
    chance = random.Random(6)
    others = [
        execed(chance.randrange(60 * SECOND), unit=f"{n % 20}.service", uid=1000 + n)
        for n in range(80)
        for _ in range(20)
    ]
    found = flood(limits, others, unit="noise.service", uid=7)
    assert found["other True"] == 1600
    assert found["other False"] == 0
    # And the whole is not exceeded: a bucket at the beginning, then what drains.
    assert found["noisy True"] <= 1000 + 60 * 100
    assert found["noisy True"] + found["other True"] <= 1.1 * (1000 + 60 * 100)
    # What others leave is for whoever wants it.
    assert found["noisy True"] >= 0.7 * (60 * 100)


def test_nor_does_it_hide_other_users_of_the_same_unit() -> None:
    limits = Limits()
    limits.configure(Rate(1000, 10 * SECOND))
    others = [execed(n * SECOND // 2 + 7, unit="cron.service", uid=1000 + n % 5) for n in range(120)]
    found = flood(limits, others, unit="cron.service", uid=7)
    assert (found["other True"], found["other False"]) == (120, 0)


def test_who_makes_many_units_or_ids_of_his_own_has_one_share() -> None:
    """A scope for each login, and ids of a user namespace."""
    limits = Limits()
    limits.configure(Rate(100, 10 * SECOND))
    of_ann = [execed(0, unit=f"session-{n}.scope", slice_="user-1000.slice", uid=1000) for n in range(300)]
    of_ben = [execed(0, unit="cron.service", uid=100_000 + n, user_namespace=4026531999) for n in range(300)]
    noise = [record for both in zip(of_ann, of_ben, strict=True) for record in both]
    assert logged(limits, noise).count(True) <= 151
    assert logged(limits, [execed(0, unit="quiet.service")] * 30) == [True] * 30
    assert logged(limits, [execed(0, unit="cron.service", uid=1001)] * 15) == [True] * 15


def test_what_nobody_else_wanted_is_not_held_against_anyone() -> None:
    limits = Limits()
    limits.configure(Rate(1000, 10 * SECOND))
    flood(limits, [execed(at * SECOND, unit="b.service") for at in range(60)], unit="a.service")
    both = [
        execed(60 * SECOND + n * SECOND // 500, unit=unit)
        for n in range(5_000)
        for unit in ("a.service", "b.service")
    ]
    of_a = logged(limits, both)[::2].count(True)
    assert of_a >= 450


def test_many_ids_in_one_unit_take_from_that_unit_alone() -> None:
    """As a change of ids has them, while the new user namespace was not read yet."""
    limits = Limits()
    limits.configure(Rate(1000, 10 * SECOND))
    logged(limits, [execed(0, unit="user@7.service", uid=n) for n in range(5_000)])
    assert sum(map(len, limits._units.values())) == limit_module.USERS_LIMIT + 1
    assert limits.shared > 4_900
    assert logged(limits, [execed(0, unit="quiet.service")] * 400) == [True] * 400


def test_where_there_are_more_than_the_limit_each_still_has_one_now_and_then() -> None:
    limits = Limits()
    limits.configure(Rate(10, 10 * SECOND))
    units = [f"{n}.service" for n in range(40)]
    assert logged(limits, [execed(0, unit=unit) for unit in units]).count(True) >= 10
    seconds = [execed(at * SECOND, unit=unit) for at in range(1, 200) for unit in units]
    by_unit = Counter(
        record.process.context.place.unit  # type: ignore[union-attr]
        for record, is_logged in zip(seconds, logged(limits, seconds), strict=True)
        if is_logged
    )
    assert len(by_unit) == 40
    assert min(by_unit.values()) >= 3


def test_what_a_rule_silences_takes_nothing_of_the_limit_of_all() -> None:
    limits, suppression = Limits(), of_rule(5, 60)
    limits.configure(Rate(10, 60 * SECOND))
    assert logged(limits, [execed(0)] * 100, suppression).count(True) == 5
    assert logged(limits, [execed(0)] * 100).count(True) == 5
