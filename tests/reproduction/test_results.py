import pytest

from tutelage.reproduction import Results

RESULTS = Results(
    {
        "a": {"validation_accuracy": [0.5, 0.7], "loss": [1.0, 1.0], "curve": [[1.0, 2.0], [3.0, 4.0]]},
        "b": {"validation_accuracy": [0.7, 0.5], "loss": [0.5, 0.7]},
        "c": {"validation_accuracy": [0.1, 0.2], "loss": [0.1, 0.1]},
    },
    {"g": ("a", "b", "c"), "small": ("c",)},
)


def test_values_and_means():
    assert RESULTS.values("a", "loss").tolist() == [1.0, 1.0]
    assert RESULTS.values("a", "curve").shape == (2, 2)
    assert RESULTS.mean("b", "loss") == pytest.approx(0.6)
    assert RESULTS.difference("a", "b", "loss") == pytest.approx(0.4)


def test_select_takes_the_best_mean_and_the_first_of_equals():
    assert RESULTS.select("g") == "a"
    assert RESULTS.select("g", "loss", lower_is_better=True) == "c"
    assert RESULTS.select("small") == "c"


def test_paired_test_is_over_seeds():
    results = Results({"a": {"x": [0.91, 0.93, 0.92]}, "b": {"x": [0.90, 0.90, 0.90]}})
    test = results.paired("a", "b", "x")
    assert (test.difference, test.p_value) == (pytest.approx(0.02), pytest.approx(0.0371, abs=1e-4))
    assert results.paired("b", "a", "x").p_value == pytest.approx(1 - 0.0371, abs=1e-4)


def test_missing_names_are_told():
    with pytest.raises(KeyError, match="no arm 'd'"):
        RESULTS.values("d", "loss")
    with pytest.raises(KeyError, match=r"no metric of 'a' 'los' \(did you mean 'loss'\?\)"):
        RESULTS.values("a", "los")
    with pytest.raises(KeyError, match="no group 'h'"):
        RESULTS.select("h")
