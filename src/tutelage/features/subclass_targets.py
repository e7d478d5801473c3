"""Soft targets over subclasses, made from what a teacher says: their common form, and simple ways to make them.

Sources: "Subclass Distillation", arXiv 2002.03936; LELP, arXiv 2409.20449, whose own targets are in
`tutelage.features.embedding_projection`.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tutelage._checks import check_at_least, check_finite, check_floating, check_option, check_positive
from tutelage.objectives.precision import log_probabilities


class SubclassTargets(nn.Module):
    """What makes soft targets over subclasses; a subclass of this defines `fit` and `conditional`.

    Args:
        num_subclasses: S, the same for every class.
    """

    def __init__(self, num_subclasses: int) -> None:
        super().__init__()
        check_at_least(num_subclasses, "num_subclasses", 1)
        self.num_subclasses = num_subclasses

    def fit(
        self,
        embeddings: Float[Tensor, "samples width"],
        head_weight: Float[Tensor, "classes head_width"] | None = None,
        labels: Int[Tensor, "labelled"] | None = None,
        logits: Float[Tensor, "asked outputs"] | None = None,
    ) -> SubclassTargets:
        """Take statistics of a teacher's embeddings, each sample in the class of its label or of its largest logit."""
        raise NotImplementedError(f"{type(self).__name__} must define `fit`.")

    def conditional(self, embeddings: Float[Tensor, "batch width"]) -> Float[Tensor, "batch classes subclasses"]:
        """How likely each subclass is, given each class: `[batch, classes, subclasses]`, sums to 1 over subclasses."""
        raise NotImplementedError(f"{type(self).__name__} must define `conditional`.")

    def targets(
        self,
        embeddings: Float[Tensor, "batch width"],
        logits: Float[Tensor, "asked outputs"],
        *,
        temperature: float = 1.0,
    ) -> Float[Tensor, "batch classes subclasses"]:
        """softmax(logits / τ) of the class times `conditional` of the subclass.

        Args:
            embeddings: `[batch, width]` of the teacher.
            logits: `[batch, classes]` of the teacher, for the same samples.
            temperature: τ of the teacher.

        Returns:
            `[batch, classes, subclasses]`, sums to 1 over all cells; over the subclasses it sums to the teacher's
            tempered probabilities. Without a gradient.

        Raises:
            ValueError: Another number of samples, classes or dimensions than expected, or a temperature that is not
                positive.
        """
        return joined_with(self.conditional(embeddings), logits, temperature)


def joined_with(
    conditional: Float[Tensor, "batch classes subclasses"],
    logits: Float[Tensor, "..."],
    temperature: float,
) -> Float[Tensor, "batch classes subclasses"]:
    """Probabilities of subclasses given classes, times the tempered probabilities of the classes.

    >>> joined_with(torch.full((1, 2, 2), 0.5), torch.tensor([[3.0, 1.0]]).log(), 1.0)
    tensor([[[0.3750, 0.3750],
             [0.1250, 0.1250]]])
    """
    check_positive(temperature, "temperature")
    if logits.shape != conditional.shape[:2]:
        raise ValueError(
            f"Expected argument `logits` to have shape {tuple(conditional.shape[:2])}, but got {tuple(logits.shape)}."
        )
    probabilities = log_probabilities(logits.detach(), temperature).exp()
    return probabilities.unsqueeze(2) * conditional.to(probabilities.dtype)


class ClusterSubclassTargets(SubclassTargets):
    """Hard subclasses: clusters of a teacher's embeddings within each class, or the true subclasses (an oracle).

    A sample gets, for each class, the cluster whose centre is nearest to its embedding, also when it is one of those
    that were clustered. The oracle knows the true subclass of its own class, and is indifferent within the others.

    Args:
        num_subclasses: S.
        method: `"kmeans"` or `"agglomerative"` (Ward's linkage, whose time and memory grow with the square of the
            samples of a class), both by scikit-learn; or `"oracle"`, which `fit` tells the true subclasses.
        seed: Of k-means.

    Raises:
        ValueError: No subclass, or an unknown method.

    >>> embeddings = torch.tensor([[0.0], [0.1], [5.0], [5.1], [9.0], [7.0]])
    >>> clusters = ClusterSubclassTargets(2).fit(embeddings, labels=torch.tensor([0, 0, 0, 0, 1, 1]))
    >>> clusters.centers.sort(dim=1).values.squeeze(2)
    tensor([[0.0500, 5.0500],
            [7.0000, 9.0000]])
    """

    centers: Tensor | None
    places: Tensor | None

    def __init__(
        self,
        num_subclasses: int = 5,
        *,
        method: Literal["kmeans", "agglomerative", "oracle"] = "kmeans",
        seed: int = 0,
    ) -> None:
        super().__init__(num_subclasses)
        check_option(method, "method", ("kmeans", "agglomerative", "oracle"))
        self.method = method
        self.seed = seed
        self.num_classes = 0
        self.register_buffer("centers", None)  # [classes, subclasses, width]
        self.register_buffer("places", None)  # [true subclasses, 2]: the class and its subclass of each

    def fit(
        self,
        embeddings: Float[Tensor, "samples width"],
        head_weight: Float[Tensor, "classes head_width"] | None = None,
        labels: Int[Tensor, "labelled"] | None = None,
        logits: Float[Tensor, "asked outputs"] | None = None,
        *,
        subclasses: Int[Tensor, "samples"] | None = None,
    ) -> ClusterSubclassTargets:
        """Cluster the embeddings of each class.

        Args:
            embeddings: `[samples, width]` of the teacher.
            head_weight: Tells only the number of classes.
            labels: `[samples]` classes; without them the teacher's likeliest class counts.
            logits: `[samples, classes]` of the teacher; needed without labels.
            subclasses: `[samples]`, the true subclass of each sample, numbered over all classes; for the oracle.

        Raises:
            ValueError: Neither labels nor logits, a class with fewer than S samples, a true subclass that belongs to
                two classes, or more than S of them in a class.
        """
        members, self.num_classes = class_members(embeddings, head_weight, labels, logits)
        if self.method == "oracle":
            if subclasses is None:
                raise ValueError("Expected argument `subclasses` to be given for the method 'oracle', but got None.")
            self.places = _places(subclasses, members, self.num_subclasses)
            return self
        found = []
        for label in range(self.num_classes):
            rows = embeddings.detach()[members == label].float()
            if len(rows) < self.num_subclasses:
                raise ValueError(
                    f"Expected class {label} to have at least {self.num_subclasses} samples, but it has {len(rows)}."
                )
            found.append(self._centers(rows))
        self.centers = torch.stack(found).to(embeddings.device)
        return self

    def conditional(
        self, embeddings: Float[Tensor, "batch width"], subclasses: Int[Tensor, "batch"] | None = None
    ) -> Float[Tensor, "batch classes subclasses"]:
        """One-hot at the nearest centre of each class; at the true subclass, for the oracle.

        Args:
            embeddings: `[batch, width]` of the teacher.
            subclasses: `[batch]` true subclasses, numbered as in `fit`; for the oracle.
        """
        if self.method == "oracle":
            if self.places is None or subclasses is None:
                raise ValueError("Expected the oracle to be fitted and argument `subclasses` to be given.")
            told = torch.full((len(subclasses), self.num_classes, self.num_subclasses), 1 / self.num_subclasses)
            told = told.to(subclasses.device)
            label, place = self.places[subclasses].unbind(dim=1)
            rows = torch.arange(len(subclasses), device=subclasses.device)
            told[rows, label] = nn.functional.one_hot(place, self.num_subclasses).to(told.dtype)
            return told
        if self.centers is None:
            raise ValueError("Expected `fit` to be called first, since there are no clusters yet.")
        check_width(embeddings, self.centers.shape[2])
        points = embeddings.detach().float().expand(self.num_classes, -1, -1)
        nearest = torch.cdist(points, self.centers).argmin(dim=2).T
        return nn.functional.one_hot(nearest, self.num_subclasses).float()

    def targets(
        self,
        embeddings: Float[Tensor, "batch width"],
        logits: Float[Tensor, "asked outputs"],
        *,
        temperature: float = 1.0,
        subclasses: Int[Tensor, "batch"] | None = None,
    ) -> Float[Tensor, "batch classes subclasses"]:
        """As `SubclassTargets.targets`; the oracle is also told the true `subclasses` `[batch]`."""
        return joined_with(self.conditional(embeddings, subclasses), logits, temperature)

    def _centers(self, rows: Tensor) -> Tensor:
        from sklearn.cluster import AgglomerativeClustering, KMeans

        if self.method == "kmeans":
            found = KMeans(self.num_subclasses, n_init=4, random_state=self.seed).fit(rows.cpu().numpy())
            return torch.from_numpy(found.cluster_centers_).float()
        assigned = AgglomerativeClustering(self.num_subclasses).fit_predict(rows.cpu().numpy())
        return torch.stack(
            [rows.cpu()[torch.from_numpy(assigned == place)].mean(dim=0) for place in range(self.num_subclasses)]
        )


class RandomSubclassTargets(SubclassTargets):
    """A control: every sample gets one subclass of each class by lot, whatever its embedding.

    Every call draws anew, so make the targets of all samples once and keep them.

    Args:
        num_subclasses: S.
        generator: Where chance comes from, on the CPU; by default PyTorch's own.

    >>> drawn = RandomSubclassTargets(3, generator=torch.Generator().manual_seed(0))
    >>> _ = drawn.fit(torch.zeros(4, 2), labels=torch.tensor([0, 1, 0, 1]))
    >>> drawn.conditional(torch.zeros(4, 2)).sum(dim=2).unique()
    tensor([1.])
    """

    def __init__(self, num_subclasses: int = 5, *, generator: torch.Generator | None = None) -> None:
        super().__init__(num_subclasses)
        self.generator = generator
        self.num_classes = 0

    def fit(
        self,
        embeddings: Float[Tensor, "samples width"],
        head_weight: Float[Tensor, "classes head_width"] | None = None,
        labels: Int[Tensor, "labelled"] | None = None,
        logits: Float[Tensor, "asked outputs"] | None = None,
    ) -> RandomSubclassTargets:
        """Learn how many classes there are."""
        _, self.num_classes = class_members(embeddings, head_weight, labels, logits)
        return self

    def conditional(self, embeddings: Float[Tensor, "batch width"]) -> Float[Tensor, "batch classes subclasses"]:
        """One-hot at a subclass drawn for each sample and class."""
        if not self.num_classes:
            raise ValueError("Expected `fit` to be called first, since the number of classes is not known yet.")
        size = (len(embeddings), self.num_classes)
        drawn = torch.randint(self.num_subclasses, size, generator=self.generator).to(embeddings.device)
        return nn.functional.one_hot(drawn, self.num_subclasses).float()


def class_members(
    embeddings: Tensor, head_weight: Tensor | None, labels: Tensor | None, logits: Tensor | None
) -> tuple[Tensor, int]:
    """The class of every sample, `[samples]`, and the number of classes: by label, else by the largest logit.

    Raises:
        ValueError: Neither labels nor logits, shapes that do not go together, or embeddings that are not finite.

    >>> class_members(torch.zeros(2, 3), None, None, torch.tensor([[0.0, 1.0, 0.5], [2.0, 0.0, 0.0]]))
    (tensor([1, 0]), 3)
    """
    check_floating(embeddings, "embeddings")
    check_finite(embeddings, "embeddings")
    if head_weight is not None:
        check_finite(head_weight, "head_weight")
        if head_weight.shape[1] != embeddings.shape[1]:
            raise ValueError(
                f"Expected argument `head_weight` to have width {embeddings.shape[1]} like `embeddings`, "
                f"but got {head_weight.shape[1]}."
            )
    for name, given in (("labels", labels), ("logits", logits)):
        if given is not None and len(given) != len(embeddings):
            raise ValueError(
                f"Expected argument `{name}` to hold {len(embeddings)} samples like `embeddings`, but got {len(given)}."
            )
    if labels is None and logits is None:
        raise ValueError("Expected argument `labels` or `logits` to be given, but both are None.")
    if head_weight is not None:
        classes = len(head_weight)
    elif logits is not None:
        classes = logits.shape[1]
    else:
        assert labels is not None
        classes = int(labels.max()) + 1 if len(labels) else 0
    if logits is not None and logits.shape[1] != classes:
        raise ValueError(f"Expected argument `logits` to hold {classes} classes, but got {logits.shape[1]}.")
    if labels is None:
        assert logits is not None
        return logits.detach().argmax(dim=1), classes
    outside = labels[(labels < 0) | (labels >= classes)]
    if len(outside):
        raise ValueError(f"Expected argument `labels` to hold classes in [0, {classes}), but got {int(outside[0])}.")
    return labels.long(), classes


def check_width(embeddings: Tensor, width: int) -> None:
    """Raise `ValueError` unless the embeddings are finite rows of that width."""
    if embeddings.ndim != 2 or embeddings.shape[1] != width:
        raise ValueError(
            f"Expected argument `embeddings` to have shape [batch, {width}], but got {tuple(embeddings.shape)}."
        )
    check_finite(embeddings, "embeddings")


def _places(subclasses: Tensor, members: Tensor, most: int) -> Tensor:
    """The class of every true subclass, and its place among those of the class: `[true subclasses, 2]`."""
    places = torch.full((int(subclasses.max()) + 1, 2), -1, device=subclasses.device)
    taken: dict[int, int] = {}
    pairs = torch.stack([subclasses.long(), members], dim=1)
    for subclass, label in torch.unique(pairs, dim=0).tolist():
        if places[subclass, 0] >= 0:
            raise ValueError(f"Expected every true subclass to belong to one class, but {subclass} belongs to two.")
        place = taken.get(label, 0)
        if place >= most:
            raise ValueError(f"Expected at most {most} true subclasses in a class, but class {label} has more.")
        places[subclass] = torch.tensor([label, place])
        taken[label] = place + 1
    return places
