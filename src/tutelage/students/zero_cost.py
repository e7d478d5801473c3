"""Scores of untrained networks that know no teacher: the baselines of every search without training.

Parameters and multiply–adds (`tutelage.models`) are two more, and hard to beat.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from tutelage.models.call import call_model


def gradient_norm(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """The length of the loss gradient over all parameters, from one batch in train mode; the model is left as it is.

    Args:
        model: A classifier.
        x: `[batch, …]` inputs.
        y: `[batch]` classes.

    >>> gradient_norm(nn.Linear(2, 2), torch.zeros(4, 2), torch.tensor([0, 0, 0, 0])) > 0
    True
    """
    net = copy.deepcopy(model).train()
    loss = functional.cross_entropy(_logits(net, x), y)
    parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    return float(sum(gradient.double().square().sum() for gradient in gradients if gradient is not None) ** 0.5)


def naswot(model: nn.Module, x: Tensor) -> float:
    """How differently a network's ReLUs switch for different inputs: log |det K|, K = shared on and off states.

    Source: Mellor et al., "Neural Architecture Search without Training", ICML 2021, equation (2). Two inputs with the
    same states make it −∞.

    Args:
        model: A network with `nn.ReLU` modules.
        x: `[batch, …]` inputs.

    Raises:
        ValueError: The model has no ReLU module.

    >>> _ = torch.manual_seed(0)
    >>> naswot(nn.Sequential(nn.Linear(2, 64), nn.ReLU()), torch.randn(3, 2)) > 0
    True
    """
    net = copy.deepcopy(model).train()
    count = len(x)
    kernel = torch.zeros(count, count, dtype=torch.float64, device=x.device)
    seen = False

    def fold(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal kernel, seen
        on = (output > 0).flatten(1).to(kernel.dtype)
        kernel += on @ on.t() + (1 - on) @ (1 - on).t()
        seen = True

    for module in net.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
            module.register_forward_hook(fold)
    with torch.no_grad():
        call_model(net, x)
    if not seen:
        raise ValueError("Expected argument `model` to have ReLU modules, but it called none.")
    return float(torch.linalg.slogdet(kernel)[1])


def synflow(model: nn.Module, input_shape: tuple[int, ...]) -> float:
    """How much signal passes through all weights at once: Σ |θ · ∂R/∂θ|, R the sum of outputs for inputs of ones.

    Weights are replaced by their absolute values, norms are in evaluation mode, and all is computed in float64. Source:
    Tanaka et al., "Pruning neural networks without any data by iteratively conserving synaptic flow", NeurIPS 2020.

    Args:
        model: Any network; it is left as it is.
        input_shape: Of one input, without the batch.

    Returns:
        The natural logarithm of the sum, which spans hundreds of orders of magnitude over depths.

    >>> layer = nn.Linear(2, 1, bias=False)
    >>> with torch.no_grad():
    ...     _ = layer.weight.copy_(torch.tensor([[-1.0, 2.0]]))
    >>> round(synflow(layer, (2,)), 4)
    1.0986
    """
    net = copy.deepcopy(model).double().eval()
    parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]
    with torch.no_grad():
        for parameter in parameters:
            parameter.abs_()
    total = _logits(net, torch.ones(1, *input_shape, dtype=torch.float64, device=parameters[0].device)).sum()
    gradients = torch.autograd.grad(total, parameters, allow_unused=True)
    flow = sum(
        (parameter * gradient).abs().sum()
        for parameter, gradient in zip(parameters, gradients, strict=True)
        if gradient is not None
    )
    return float(torch.as_tensor(flow).detach().log())


def _logits(model: nn.Module, x: Tensor) -> Tensor:
    logits = call_model(model, x).logits
    assert logits is not None
    return logits
