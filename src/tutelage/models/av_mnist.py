"""The small networks that papers on cross-modal distillation use for AV-MNIST: an image and the sound of a digit.

Source: Li et al., "MST-Distill", arXiv 2507.07015, and the authors' code (`LeNet5`, `ThreeLayerCNN-A`, the branches of
`CNN-I`).
"""

from __future__ import annotations

from torch import nn


def lenet(*, head: bool = True) -> nn.Sequential:
    """LeNet-5 for images `[batch, 1, 28, 28]`: 10 logits, or the 84 features before them.

    Layers are named `conv1` … `conv3`, `fc1` and `fc2`.

    >>> import torch
    >>> lenet()(torch.zeros(2, 1, 28, 28)).shape, lenet(head=False)(torch.zeros(2, 1, 28, 28)).shape
    (torch.Size([2, 10]), torch.Size([2, 84]))
    """
    network = nn.Sequential()
    for number, layer in enumerate((nn.Conv2d(1, 6, 5, padding=2), nn.Conv2d(6, 16, 5), nn.Conv2d(16, 120, 5)), 1):
        network.add_module(f"conv{number}", layer)
        network.add_module(f"relu{number}", nn.ReLU())
        if number < 3:
            network.add_module(f"pool{number}", nn.AvgPool2d(2))
    network.add_module("flatten", nn.Flatten())
    network.add_module("fc1", nn.Linear(120, 84))
    network.add_module("relu4", nn.ReLU())
    if head:
        network.add_module("fc2", nn.Linear(84, 10))
    return network


def sound_network() -> nn.Sequential:
    """Three convolutions (`conv1` …) on spectrograms `[batch, 1, 112, 112]` and a linear layer `fc1`: 10 logits.

    >>> import torch
    >>> sound_network()(torch.zeros(2, 1, 112, 112)).shape
    torch.Size([2, 10])
    """
    network = _convolutions(32, 64, 128)
    network.add_module("flatten", nn.Flatten())
    network.add_module("fc1", nn.Linear(128 * 14 * 14, 10))
    return network


def sound_branch() -> nn.Sequential:
    """Five convolutions (`conv1` …) on spectrograms `[batch, 1, 112, 112]` and the mean over positions: 512 features.

    >>> import torch
    >>> sound_branch()(torch.zeros(2, 1, 112, 112)).shape
    torch.Size([2, 512])
    """
    network = _convolutions(32, 64, 128, 256, 512)
    network.add_module("pool", nn.AdaptiveAvgPool2d(1))
    network.add_module("flatten", nn.Flatten())
    return network


def _convolutions(*channels: int) -> nn.Sequential:
    network = nn.Sequential()
    for number, (narrow, wide) in enumerate(zip((1, *channels), channels, strict=False), 1):
        network.add_module(f"conv{number}", nn.Conv2d(narrow, wide, 3, padding=1))
        network.add_module(f"relu{number}", nn.ReLU())
        network.add_module(f"pool{number}", nn.MaxPool2d(2))
    return network
