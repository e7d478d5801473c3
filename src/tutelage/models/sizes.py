"""How large a model is: parameters, and multiply–adds of one call."""

from __future__ import annotations

import torch
from torch import nn

from tutelage.batch import Inputs
from tutelage.models.call import call_model


def parameter_count(model: nn.Module, *, trainable_only: bool = False) -> int:
    """The number of parameters, each counted once however many names it has; buffers are not parameters.

    Args:
        model: Any module.
        trainable_only: Leave out what does not require a gradient.

    >>> parameter_count(nn.Linear(3, 2))
    8
    """
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad or not trainable_only)


def multiply_adds(model: nn.Module, inputs: Inputs) -> int:
    """Multiply–adds of one forward call for the whole of `inputs`: half the floating-point operations PyTorch counts.

    PyTorch's `FlopCounterMode` counts matrix products and convolutions, a multiply–add as two operations; additions
    of a bias, activations and normalizations are not counted. Attention counts in full, masked positions too: it is
    computed unfused here, since the counter misses the fused form on a CPU. Give a batch of one for the cost of a
    sample. The model is called in evaluation mode, without gradients, and left as it was.

    Args:
        model: Any model that `call_model` can call.
        inputs: On the model's device.

    >>> multiply_adds(nn.Linear(3, 2), torch.zeros(1, 3))
    6
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            call_model(model, inputs)
    finally:
        for module in training:
            module.training = True
    return int(counter.get_total_flops()) // 2
