"""Second moments of a teacher's embeddings by class, and how its logits go with them, in one pass over the data."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tutelage.features.subclass_targets import check_width


class EmbeddingMoments:
    """Sums and second moments of embeddings by class, taken batch by batch in float64; any split gives the same.

    Memory grows with classes · width², not with the samples.

    Args:
        num_classes: C.
        width: Of the embeddings.
        device: Where the sums are kept.

    >>> moments = EmbeddingMoments(1, 2)
    >>> for part in torch.tensor([[1.0, 0.0], [3.0, 0.0], [2.0, 3.0]]).split(2):
    ...     moments.update(part, torch.zeros(len(part), dtype=torch.int64))
    >>> moments.means().tolist()
    [[2.0, 1.0]]
    """

    def __init__(self, num_classes: int, width: int, device: torch.device | str = "cpu") -> None:
        self.counts = torch.zeros(num_classes, dtype=torch.int64, device=device)
        self.sums = torch.zeros(num_classes, width, dtype=torch.float64, device=device)
        self.products = torch.zeros(num_classes, width, width, dtype=torch.float64, device=device)
        self.logit_sums = torch.zeros(num_classes, dtype=torch.float64, device=device)
        self.logit_products = torch.zeros(num_classes, width, dtype=torch.float64, device=device)

    def update(
        self,
        embeddings: Float[Tensor, "batch width"],
        members: Int[Tensor, "batch"],
        logits: Float[Tensor, "batch classes"] | None = None,
    ) -> None:
        """Add a batch.

        Args:
            embeddings: `[batch, width]`.
            members: `[batch]`, the class of each.
            logits: `[batch, classes]`, from which `head_weight` is found; in all batches or in none.
        """
        check_width(embeddings, self.sums.shape[1])
        rows = embeddings.detach().double()
        self.counts += members.bincount(minlength=len(self.counts))
        self.sums.index_add_(0, members, rows)
        for label in torch.unique(members).tolist():
            own = rows[members == label]
            self.products[label] += own.T @ own
        if logits is not None:
            self.logit_sums += logits.detach().double().sum(dim=0)
            self.logit_products += logits.detach().double().T @ rows

    def means(self) -> Float[Tensor, "classes width"]:
        """Mean embedding of every class; NaN for one without samples."""
        return self.sums / self.counts[:, None]

    def covariances(self) -> Float[Tensor, "classes width width"]:
        """Covariance of the embeddings of every class, divided by their number."""
        means = self.means()
        return self.products / self.counts[:, None, None] - means[:, :, None] * means[:, None, :]

    def head_weight(self) -> Float[Tensor, "classes width"]:
        """The weight of the layer that makes logits of embeddings: what regresses one on the other.

        Exact within the span of the embeddings where the logits are linear in them, as those of a last layer are; so a
        teacher whose signals were cached need not be there.
        """
        total = self.counts.sum()
        mean, logit_mean = self.sums.sum(dim=0) / total, self.logit_sums / total
        covariance = self.products.sum(dim=0) / total - mean.outer(mean)
        together = self.logit_products / total - logit_mean.outer(mean)
        # Directions that vary by no more than float32 can tell are noise.
        tolerance = len(mean) * torch.finfo(torch.float32).eps ** 2
        weight: Tensor = together @ torch.linalg.pinv(covariance, rtol=tolerance, hermitian=True)
        return weight
