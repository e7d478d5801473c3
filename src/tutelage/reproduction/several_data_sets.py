"""One set of arms on several data sets: names that tell them apart, and claims that must hold on each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from tutelage.reproduction.recipe import Arm
from tutelage.reproduction.results import Judgement, Results


def name_on(data_sets: Iterable[str], data: str, name: str) -> str:
    """A name on a data set: as it is on the first one, after the data set's own name on the others.

    >>> [name_on(["digits", "my.module:table"], data, "CE") for data in ("digits", "my.module:table")]
    ['CE', 'table: CE']
    """
    return name if data == next(iter(data_sets)) else f"{data.rpartition(':')[2]}: {name}"


def arms_on(data_sets: Iterable[str], arms: Iterable[Arm]) -> list[Arm]:
    """All arms on every data set, which is `settings["data"]` of each; see `name_on`.

    >>> [(arm.name, arm.settings) for arm in arms_on(["digits", "wine"], [Arm("CE")])]
    [('CE', {'data': 'digits'}), ('wine: CE', {'data': 'wine'})]
    """
    names, chosen = list(data_sets), list(arms)
    return [
        replace(
            arm,
            name=name_on(names, data, arm.name),
            group=arm.group and name_on(names, data, arm.group),
            settings={"data": data, **arm.settings},
        )
        for data in names
        for arm in chosen
    ]


def on_every_data_set(judge: Callable[..., Judgement], arm: str, **options: Any) -> Callable[[Results], Judgement]:
    """A judge of one data set as one of all that there are: the claim must hold on each.

    Args:
        judge: Called with the results, the prefix of names on a data set, and the options.
        arm: An arm that there is on every data set.
        **options: Passed on.

    Returns:
        A judge that gives the smallest value, the largest p-value and all details.

    >>> results = Results({"CE": {"a": [2.0]}, "wine: CE": {"a": [1.0]}})
    >>> judge = on_every_data_set(lambda results, prefix: Judgement(results.mean(f"{prefix}CE", "a"), True), "CE")
    >>> judge(results).value
    1.0
    """

    def judge_all(results: Results) -> Judgement:
        prefixes = [name.removesuffix(arm) for name in results.arms if name == arm or name.endswith(f": {arm}")]
        judged = [judge(results, prefix, **options) for prefix in prefixes]
        p_values = [one.p_value for one in judged if one.p_value is not None]
        return Judgement(
            min(one.value for one in judged),
            all(one.holds for one in judged),
            max(p_values) if p_values else None,
            "; ".join(prefix + one.detail for prefix, one in zip(prefixes, judged, strict=True)),
        )

    return judge_all
