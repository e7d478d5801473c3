"""Distillation in which every loss pulls equally hard, whatever its scale."""

from __future__ import annotations

from torch import Tensor, nn

from tutelage.batch import Batch
from tutelage.models.call import head_path
from tutelage.objectives.gradient_magnitude import gradient_magnitude_weights
from tutelage.teachers.teacher import Teacher
from tutelage.training.distillation import Distillation, Objectives


class GradientBalancedDistillation(Distillation):
    """Distillation whose losses are weighed anew in every step by `gradient_magnitude_weights` (GradMag).

    The total is Σ weight_i · ω_i · loss_i with ω_i proportional to the inverse norm of loss i's gradient on the
    student's last block, so a loss of the size 1e-4 (likelihood matching at a high temperature) and one of the size 1
    (cross-entropy) can be added without a weight to tune. No gradient passes through ω. The weights of `Weighted`
    objectives come on top: with 2 and 1, the first one pulls twice as hard as the second. Each loss costs one more
    backward pass through the last block and the head; on several processes each one balances its own share of a batch.

    Args:
        teacher: See `Distillation`.
        student: The module that learns.
        objectives: The losses to balance; one alone is left as it is.
        layer: Path of the student's module whose parameters are watched; by default the last one of its longest
            `nn.ModuleList` (a transformer's last block), or the head where it has no such list.

    Attributes:
        shares: ω of the last step, by objective name.

    Raises:
        ValueError: The layer does not exist, or nothing in it learns.

    Source: Minixhofer et al. 2025 (arXiv 2503.20083), step 9; their code watches the last transformer layer too.

    >>> import torch
    >>> from tutelage.objectives import ForwardKL, LogitMSE
    >>> method = GradientBalancedDistillation(nn.Linear(4, 3), nn.Linear(4, 3), [ForwardKL(), LogitMSE()])
    >>> losses = method.step(Batch(torch.randn(8, 4), None, torch.arange(8)))
    >>> list(losses), round(sum(method.shares.values()), 5)
    (['forward_kl', 'logit_mse'], 1.0)
    """

    shardable = False

    def __init__(
        self,
        teacher: Teacher | nn.Module | None,
        student: nn.Module,
        objectives: Objectives,
        *,
        layer: str | None = None,
    ) -> None:
        super().__init__(teacher, student, objectives)
        path = last_block_path(student) if layer is None else layer
        try:
            watched = student.get_submodule(path)
        except AttributeError as error:
            raise ValueError(f"Expected argument `layer` to be a module of the student, but got {path!r}.") from error
        self._watched = list(watched.parameters())
        if not any(value.requires_grad for value in self._watched):
            raise ValueError(f"Expected the student's module {path!r} to have parameters that learn, but it has none.")
        self.shares: dict[str, float] = {}

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Weighted and balanced losses by objective name."""
        student, teacher = self._outputs(batch)
        for observe in self.observers:
            observe(student, teacher, batch)
        losses = {name: objective(student, teacher, batch) for name, objective in self._terms}
        learning = [value for value in self._watched if value.requires_grad]
        omega = gradient_magnitude_weights(list(losses.values()), learning)
        self.shares = dict(zip(losses, omega.tolist(), strict=True))
        return {
            name: loss * (weight * share)
            for (name, loss), share, weight in zip(losses.items(), omega, self._weights, strict=True)
        }


def last_block_path(model: nn.Module) -> str:
    """The path of the last module in a model's longest `nn.ModuleList`, or of its head where it has none.

    >>> from tutelage.models import causal_lm
    >>> last_block_path(causal_lm(9, hidden_size=8, num_layers=3)), last_block_path(nn.Sequential(nn.Linear(2, 2)))
    ('transformer.h.2', '0')
    """
    lists = [(path, entry) for path, entry in model.named_modules() if isinstance(entry, nn.ModuleList) and len(entry)]
    if not lists:
        return head_path(model)
    path, blocks = max(lists, key=lambda found: len(found[1]))
    return f"{path}.{len(blocks) - 1}".lstrip(".")
