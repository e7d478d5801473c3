"""Projectors: trained with the student to bring its features to the teacher's width, and dropped with the lesson."""

from __future__ import annotations

from torch import Tensor, nn

from tutelage._checks import check_at_least, check_in_range


class FeatureProjector(nn.Module):
    """BatchNorm1d → Dropout → Linear from a student's width to the teacher's (KD++, official code).

    Used only while training: the projected feature meets the objective, the student's head keeps reading the raw one.
    The linear bias starts at 0, batch normalisation at weight 1 and bias 0.

    Args:
        in_dim: Width of the student's features.
        out_dim: Width of the teacher's features.
        dropout: Probability of dropping a value between normalisation and projection.

    Shape: `[batch, in_dim]` → `[batch, out_dim]`.

    >>> import torch
    >>> FeatureProjector(3, 5)(torch.zeros(4, 3)).shape
    torch.Size([4, 5])
    """

    def __init__(self, in_dim: int, out_dim: int, dropout: float = 0.5) -> None:
        super().__init__()
        check_at_least(in_dim, "in_dim", 1)
        check_at_least(out_dim, "out_dim", 1)
        check_in_range(dropout, "dropout", 0.0, 1.0)
        self.normalization = nn.BatchNorm1d(in_dim)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(in_dim, out_dim)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Project `[batch, in_dim]` features to `[batch, out_dim]`."""
        if features.ndim != 2 or features.shape[1] != self.linear.in_features:
            raise ValueError(
                f"Expected argument `features` to have shape [batch, {self.linear.in_features}], "
                f"but got {tuple(features.shape)}."
            )
        projected: Tensor = self.linear(self.dropout(self.normalization(features)))
        return projected


def width_projector(student: Tensor, teacher: Tensor) -> nn.Module:
    """What brings a student's features to the teacher's width, trained with the student: nothing, or a linear layer.

    Args:
        student: Features of a first batch: `[batch, width]`, tokens `[batch, tokens, width]` or maps
            `[batch, width, height, width]`.
        teacher: The same layout in another width.

    Returns:
        The identity where the widths agree; else `nn.Linear`, for maps a 1×1 `nn.Conv2d`, on the student's device.

    >>> import torch
    >>> width_projector(torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 4, 4))
    Conv2d(3, 5, kernel_size=(1, 1), stride=(1, 1))
    """
    dim = 1 if student.ndim == 4 else -1
    widths = student.shape[dim], teacher.shape[dim]
    if widths[0] == widths[1]:
        return nn.Identity()
    place = {"device": student.device, "dtype": student.dtype}
    if student.ndim == 4:
        return nn.Conv2d(widths[0], widths[1], kernel_size=1, **place)  # type: ignore[arg-type]
    return nn.Linear(widths[0], widths[1], **place)  # type: ignore[arg-type]
