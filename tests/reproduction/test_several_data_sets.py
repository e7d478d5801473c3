from __future__ import annotations

from tutelage.reproduction import Arm, Judgement, Results, arms_on, on_every_data_set


def test_arms_of_the_first_data_set_keep_their_names() -> None:
    arms = arms_on({"digits": 1, "my.module:table": 2}, [Arm("a", {"x": 1}), Arm("b", group="g")])
    assert [arm.name for arm in arms] == ["a", "b", "table: a", "table: b"]
    assert [arm.group for arm in arms] == [None, "g", None, "table: g"]
    assert arms[2].settings == {"data": "my.module:table", "x": 1}


def test_a_claim_must_hold_on_every_data_set() -> None:
    def judge(results: Results, prefix: str, *, least: float) -> Judgement:
        value = results.mean(f"{prefix}a", "gain")
        return Judgement(value, value >= least, 0.1 * value, f"{value}")

    results = Results({"a": {"gain": [2.0]}, "aa": {"gain": [9.0]}, "table: a": {"gain": [1.0]}})
    strict, mild = (on_every_data_set(judge, "a", least=least)(results) for least in (2.0, 1.0))
    assert (strict.value, strict.holds, strict.p_value) == (1.0, False, 0.2)
    assert strict.detail == "2.0; table: 1.0"
    assert mild.holds
