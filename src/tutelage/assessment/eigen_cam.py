"""Where in an image a layer looks, without a class and without gradients."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tutelage.assessment.evaluation_mode import evaluation_mode
from tutelage.features import FeatureTaps
from tutelage.models import call_model


@torch.no_grad()
def eigen_cam(
    model: nn.Module, layer: str, images: Float[Tensor, "batch channels height width"]
) -> Float[Tensor, "batch height width"]:
    """Eigen-CAM: a layer's activations along their first principal component, as a map over the image.

    The activations of an image, a matrix [positions, channels], are projected on their first right singular vector, not
    centred. Its sign is free: it is chosen so that the map's sum is not negative; what is negative then counts as 0.
    The map is scaled to a maximum of 1 (a map of zeros stays) and brought to the image's size by bilinear
    interpolation.

    Args:
        model: The model, which is asked in evaluation mode.
        layer: The path of a module whose output is `[batch, channels, rows, columns]` (see `FeatureTaps`).
        images: What it is asked about.

    Returns:
        `[batch, height, width]` in [0, 1], in float32 or wider.

    Raises:
        ValueError: There is no such layer, or its output is no map.

    Source: Muhammad and Yeasin, "Eigen-CAM: Class Activation Map using Principal Components", IJCNN 2020.

    >>> model = nn.Sequential(nn.Identity(), nn.Flatten(), nn.Linear(4, 2))
    >>> eigen_cam(model, "0", torch.tensor([[[[0.0, 1.0], [2.0, 4.0]]]])).squeeze(0)
    tensor([[0.0000, 0.2500],
            [0.5000, 1.0000]])
    """
    with evaluation_mode(model), FeatureTaps(model, {"layer": layer}) as taps:
        call_model(model, images)
    activations = taps.features["layer"]
    if activations.ndim != 4:
        raise ValueError(
            f"Expected the output of layer {layer!r} to be `[batch, channels, rows, columns]`, "
            f"but got shape {tuple(activations.shape)}."
        )
    activations = activations.to(torch.promote_types(activations.dtype, torch.float32))
    positions = activations.flatten(2).transpose(1, 2)
    left, singular, _ = torch.linalg.svd(positions, full_matrices=False)
    projection = left[:, :, 0] * singular[:, :1]
    projection = projection * torch.where(projection.sum(dim=1, keepdim=True) < 0, -1.0, 1.0)
    projection = projection.clamp_min(0)
    largest = projection.amax(dim=1, keepdim=True)
    maps = torch.where(largest > 0, projection / largest, 0.0).reshape(-1, *activations.shape[2:])
    resized = F.interpolate(maps[:, None], size=images.shape[2:], mode="bilinear", align_corners=False)
    return resized[:, 0]
