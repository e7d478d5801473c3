from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from tutelage.features import FeatureTaps, ObservedModel


class Fails(nn.Module):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("mid-forward")


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 4))


def test_reads_outputs_and_inputs_with_their_graph() -> None:
    model = network()
    with FeatureTaps(model, {"hidden": "0", "head_input": "2:input"}) as taps:
        logits = model(torch.ones(5, 2))
    torch.testing.assert_close(taps.features["head_input"], taps.features["hidden"].relu())
    torch.testing.assert_close(model[2](taps.features["head_input"]), logits)
    taps.features["hidden"].sum().backward()
    assert model[0].weight.grad is not None


def test_no_hook_outlives_the_block_even_when_the_forward_raises() -> None:
    model = nn.Sequential(nn.Linear(2, 3), Fails(), nn.Linear(3, 4))
    with pytest.raises(RuntimeError, match="mid-forward"), FeatureTaps(model, ["0", "2:input"]):
        model(torch.ones(5, 2))
    assert hooks(model) == 0
    observed = ObservedModel(model, embedding=True)
    with pytest.raises(RuntimeError, match="mid-forward"):
        observed(torch.ones(5, 2))
    assert hooks(model) == 0


def test_a_path_that_does_not_exist_names_the_nearest() -> None:
    model = nn.ModuleDict({"encoder": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    with pytest.raises(ValueError, match="ModuleDict has no 'encodr' \\(did you mean 'encoder'"):
        FeatureTaps(model, {"middle": "encodr"})
    layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(2))
    with pytest.raises(ValueError, match=r"no 'layer.0' \(did you mean 'layers.0' or 'layers.1' or 'layers'\?\)"):
        FeatureTaps(nn.ModuleDict({"layers": layers}), ["layer.0"])
    with pytest.raises(ValueError, match="no 'quite else'; its parts are 'encoder', 'head'"):
        FeatureTaps(model, ["quite else"])


def test_tuples_give_their_first_tensor() -> None:
    class Pair(nn.Module):
        def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, None]:
            return inputs + 1, None

    model = nn.Module()
    model.pair = Pair()
    model.forward = lambda inputs: model.pair(inputs)[0]
    with FeatureTaps(model, ["pair"]) as taps:
        model(torch.zeros(2))
    assert taps.features["pair"].tolist() == [1.0, 1.0]


def test_observed_model_keeps_nothing_between_calls_and_follows_compile() -> None:
    model = network()
    observed = ObservedModel(model, embedding=True, taps={"hidden": "0"})
    outputs = observed(torch.ones(5, 2))
    assert outputs.embedding is not None
    torch.testing.assert_close(outputs.embedding, outputs.features["hidden"].relu())
    assert observed._taps is not None
    assert not observed._taps.features
    assert hooks(model) == 0


def test_an_error_in_one_of_two_nested_models_leaves_no_hook_in_either() -> None:
    inner = nn.Sequential(nn.Linear(2, 2), Fails())
    outer = nn.Sequential(nn.Linear(2, 2), inner)
    with (
        pytest.raises(RuntimeError, match="mid-forward"),
        FeatureTaps(outer, ["0", "1.0"]) as outside,
        FeatureTaps(inner, ["0", "0:input"]) as inside,
    ):
        outer(torch.ones(1, 2))
    assert hooks(outer) == 0
    assert outside.features["1.0"] is inside.features["0"]
    torch.testing.assert_close(outside.features["0"], inside.features["0:input"])


def test_a_pre_hook_that_raises_and_an_interrupt_leave_no_hook() -> None:
    class TakesText(nn.Module):
        def forward(self, text: str) -> torch.Tensor:
            raise KeyboardInterrupt

    model = nn.Sequential(nn.Linear(2, 2), TakesText())
    message = "Expected the tap '1:input' to give a tensor, but got tuple"
    with pytest.raises(ValueError, match=message), FeatureTaps(model, ["1:input", "0"]):
        model[1]("text")
    with pytest.raises(KeyboardInterrupt), FeatureTaps(model, ["0"]):
        model(torch.ones(1, 2))
    assert hooks(model) == 0


def test_hooks_of_others_stay() -> None:
    model = network()
    seen: list[torch.Size] = []
    model[0].register_forward_hook(lambda module, arguments, output: seen.append(output.shape))
    with FeatureTaps(model, ["0"]):
        model(torch.ones(5, 2))
    model(torch.ones(4, 2))
    assert seen == [(5, 3), (4, 3)]
    assert hooks(model) == 1


def test_a_block_can_be_opened_again_and_starts_empty() -> None:
    model = network()
    taps = FeatureTaps(model, ["0"])
    for batch in (5, 4):
        with taps:
            assert not taps.features
            model(torch.ones(batch, 2))
        assert taps.features["0"].shape == (batch, 3)


def test_copies_read_their_own_model() -> None:
    observed = ObservedModel(network(), taps={"hidden": "0"})
    for copied in (copy.deepcopy(observed), copy.deepcopy(copy.deepcopy(observed))):
        with torch.no_grad():
            copied.model.get_parameter("0.weight").zero_()
        ones = torch.ones(5, 2)
        hidden = copied(ones).features["hidden"]
        torch.testing.assert_close(hidden, copied.model.get_parameter("0.bias").expand(5, 3))
        torch.testing.assert_close(observed(ones).features["hidden"], observed.model.get_submodule("0")(ones))


def test_a_module_that_is_called_again_gives_its_last_call() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            again: torch.Tensor = self.layer(self.layer(inputs))
            return again

    model = Twice()
    with FeatureTaps(model, ["layer"]) as taps:
        assert taps.features.get("layer") is None
        outputs = model(torch.ones(1, 2))
    assert taps.features["layer"] is outputs


def test_a_tap_that_the_model_does_not_pass_is_an_error() -> None:
    model = network()
    observed = ObservedModel(model, taps={"hidden": "0"})
    model[0] = nn.Linear(2, 3)  # replaced after the tap was made
    with pytest.raises(ValueError, match="Expected Sequential to call '0', where a tap reads, but it did not"):
        observed(torch.ones(5, 2))


@pytest.fixture
def compiler() -> Iterator[CompileCounterWithBackend]:
    guards = torch._dynamo.config.skip_nnmodule_hook_guards
    torch.compiler.reset()
    yield CompileCounterWithBackend("aot_eager")
    torch.compiler.reset()
    torch._dynamo.config.skip_nnmodule_hook_guards = guards


def test_a_compiled_model_is_tapped_in_its_compiled_form(compiler: CompileCounterWithBackend) -> None:
    model = network()
    compiled: nn.Module = torch.compile(model, backend=compiler)  # type: ignore[assignment]
    observed = ObservedModel(compiled, embedding=True, taps={"hidden": "0"})
    compiled(torch.ones(5, 2))  # a version without taps, before the one with taps
    frames = []
    for number in range(3):
        inputs = torch.full((5, 2), float(number))
        outputs = observed(inputs)
        torch.testing.assert_close(outputs.features["hidden"], model[0](inputs))
        torch.testing.assert_close(outputs.embedding, model[0](inputs).relu())
        model.zero_grad()
        outputs.features["hidden"].sum().backward()
        torch.testing.assert_close(model[0].weight.grad, torch.full((3, 2), 5.0 * number))
        compiled(inputs)
        assert observed._taps is not None
        assert not observed._taps.features
        assert hooks(model) == 0
        frames.append(compiler.frame_count)
    assert frames[0] >= 2
    assert frames[0] == frames[1] == frames[2]  # both versions are kept: nothing is compiled again


def test_taps_of_a_model_that_was_compiled_and_called_before_say_what_to_do(
    compiler: CompileCounterWithBackend,
) -> None:
    compiled: nn.Module = torch.compile(network(), backend=compiler)  # type: ignore[assignment]
    torch._dynamo.config.skip_nnmodule_hook_guards = True
    compiled(torch.ones(5, 2))
    observed = ObservedModel(compiled, taps={"hidden": "0"})
    with pytest.raises(ValueError, match=r"call `torch.compiler.reset\(\)`"):
        observed(torch.ones(5, 2))
    torch.compiler.reset()
    assert observed(torch.ones(5, 2)).features["hidden"].shape == (5, 3)


def test_a_model_compiled_in_place_and_one_with_a_compiled_part(compiler: CompileCounterWithBackend) -> None:
    whole = network()
    whole.compile(backend=compiler)
    part = network()
    part[1] = torch.compile(part[1], backend=compiler)  # type: ignore[assignment]
    for model in (whole, part):
        outputs = ObservedModel(model, embedding=True, taps={"middle": "1"})(torch.ones(5, 2))
        torch.testing.assert_close(outputs.features["middle"], outputs.embedding)


def test_an_error_inside_a_compiled_model_leaves_no_hook(compiler: CompileCounterWithBackend) -> None:
    model = nn.Sequential(nn.Linear(2, 3), Fails())
    compiled: nn.Module = torch.compile(model, backend=compiler)  # type: ignore[assignment]
    with pytest.raises(Exception, match="mid-forward"), FeatureTaps(compiled, ["0"]):
        compiled(torch.ones(5, 2))
    assert hooks(model) == 0
