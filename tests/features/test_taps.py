import pytest
import torch
from torch import nn

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
    with pytest.raises(ValueError, match="did you mean 'encoder'"):
        FeatureTaps(model, {"middle": "encodr"})


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
