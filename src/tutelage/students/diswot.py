"""DisWOT: how well an untrained student would learn from a teacher, from one batch through both, untrained.

Source: Dong et al., "DisWOT: Student Architecture Search for Distillation WithOut Training", CVPR 2023, arXiv
2303.15678, sections 3.1 and 3.2. The file of the release that is called after the method holds another score (Zen);
the method is in its README and in `exps/`. There the teacher's gradient is never zeroed between candidates; here every
candidate meets the same gradient of the same batch.
"""

from __future__ import annotations

import copy
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from tutelage._checks import check_at_least, check_non_negative, check_option, check_positive
from tutelage.features.relations import sample_relation_distance
from tutelage.features.taps import FeatureTaps
from tutelage.models.call import call_model, head_path
from tutelage.students.initialization import gaussian_reinitialize

Initialization = Literal["gaussian"] | None


class DisWOTScore(NamedTuple):
    """What a student scores; higher is better.

    Attributes:
        relation: −d_r, of the samples' relations.
        semantic: −d_s, of the classes' gradients.
        total: Their weighted sum.
    """

    relation: float
    semantic: float
    total: float


def classifier_gradient(
    model: nn.Module, x: Tensor, y: Int[Tensor, "batch"], *, layer: str
) -> Float[Tensor, "classes width"]:
    """The gradient of the mean cross-entropy with respect to a classifier's weight, fresh from one batch.

    Rows are Grad-CAM's channel weights by class (up to the sum over positions that pooling has done). The model is
    called in the mode it is in, on a copy: its buffers, gradients and mode stay as they are.

    Args:
        model: A classifier.
        x: `[batch, …]` inputs.
        y: `[batch]` classes.
        layer: Module path of the classifier, a layer with a `weight` of shape `[classes, width]`.

    Returns:
        `[classes, width]`, detached.

    Raises:
        ValueError: There is no such layer, or it has no such weight.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> classifier_gradient(model, torch.ones(4, 2), torch.tensor([0, 1, 0, 1]), layer="2").shape
    torch.Size([2, 3])
    """
    return _signals(copy.deepcopy(model), x, y, feature=None, classifier=layer)[1]


def relation_similarity(
    student_features: Float[Tensor, "batch *a"], teacher_features: Float[Tensor, "batch *b"]
) -> float:
    """−d_r: how alike two networks find the samples of a batch (see `sample_relation_distance`).

    >>> relation_similarity(torch.eye(2), torch.eye(2))
    -0.0
    """
    return -float(sample_relation_distance(student_features, teacher_features))


def semantic_similarity(
    student_gradient: Float[Tensor, "classes width"],
    teacher_gradient: Float[Tensor, "other_classes other_width"],
    *,
    eps: float = 1e-12,
) -> float:
    """−d_s: how alike two networks weigh their channels for the classes.

    d_s = Σ_k ‖E^T_k − E^S_k‖²_F / (classes · width), where E_k = g_k g_kᵀ with rows of length 1 (equation 4). A row of
    E_k is ±ĝ_k, its sign that of one entry of g_k, so this costs no product: d_s is the mean over classes and channels
    of t² + s² − 2 · t · s · sign · cos(g^T_k, g^S_k), where t and s are the rows' lengths: 1, or less where a row is
    shorter than `eps` before it is normalised. With the weights of `gaussian_reinitialize` logits are large, and most
    classes of a batch have gradients so small that this counts: they weigh little, and the score is better for it.

    Args:
        student_gradient: `[classes, width]`, see `classifier_gradient`.
        teacher_gradient: The same shape.
        eps: The least length by which a row of g_k g_kᵀ is divided, as in `torch.nn.functional.normalize`.

    Returns:
        In [-4, 0]. Scaling either gradient changes nothing, while rows are longer than `eps`.

    Raises:
        ValueError: Shapes that differ, or `eps` not positive.

    >>> round(semantic_similarity(torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0, 2.0]])), 4)
    -0.4
    """
    check_positive(eps, "eps")
    if student_gradient.shape != teacher_gradient.shape:
        raise ValueError(
            "Expected arguments `student_gradient` and `teacher_gradient` to have the same shape, but got "
            f"{tuple(student_gradient.shape)} and {tuple(teacher_gradient.shape)}; classifiers of different widths can "
            "only be compared with `semantic_weight=0`."
        )
    student, teacher = student_gradient.double(), teacher_gradient.double()
    cosine = (_unit(student) * _unit(teacher)).sum(dim=1, keepdim=True)
    first, second = _signed_lengths(student, eps), _signed_lengths(teacher, eps)
    distance = first.square() + second.square() - 2 * first * second * cosine
    return -max(float(distance.mean()), 0.0)


class DisWOT:
    """Scores students of one teacher on one batch; what the teacher says is computed once.

    Args:
        teacher: Left as it is; copies are scored.
        x: `[batch, …]` inputs.
        y: `[batch]` classes.
        relation_weight: Weight of the relations.
        semantic_weight: Weight of the gradients.
        initialization: `"gaussian"` gives both networks new weights first, see `gaussian_reinitialize`; None scores
            them as they are.
        feature: The last map before pooling, as a module path or `stage:N`; one for both networks, or a pair (teacher,
            student).
        classifier: Module path of the classifier, or a pair; None finds it, see `tutelage.models.head_path`.
        repeats: Draws of weights over which the score is averaged; of use with an initialization only.
        generator: Where weights come from.

    Raises:
        ValueError: Negative weights, fewer than one repeat, or an unknown initialization.

    >>> from tutelage.models import resnet
    >>> images, classes = torch.randn(8, 1, 8, 8), torch.arange(8) % 4
    >>> teacher = resnet((1, 8, 8), 4, widths=(8, 16), depths=(1, 1))
    >>> score = DisWOT(teacher, images, classes)(resnet((1, 8, 8), 4, widths=(4, 16), depths=(1, 1)))
    >>> score.total == score.relation + score.semantic < 0
    True
    """

    def __init__(
        self,
        teacher: nn.Module,
        x: Tensor,
        y: Int[Tensor, "batch"],
        *,
        relation_weight: float = 1.0,
        semantic_weight: float = 1.0,
        initialization: Initialization = "gaussian",
        feature: str | tuple[str, str] = "stage:-1",
        classifier: str | tuple[str, str] | None = None,
        repeats: int = 1,
        generator: torch.Generator | None = None,
    ) -> None:
        check_non_negative(relation_weight, "relation_weight")
        check_non_negative(semantic_weight, "semantic_weight")
        check_option(initialization, "initialization", ("gaussian", None))
        check_at_least(repeats, "repeats", 1)
        self.weights = relation_weight, semantic_weight
        self.initialization, self.generator, self.batch = initialization, generator, (x, y)
        self.features = (feature, feature) if isinstance(feature, str) else feature
        self.classifiers = classifier if isinstance(classifier, tuple) else (classifier, classifier)
        self.teacher = [self._ask(teacher, 0) for _ in range(repeats)]

    def __call__(self, student: nn.Module) -> DisWOTScore:
        """The score of a student, which is left as it is.

        Raises:
            ValueError: Classifiers of different widths while the gradients count.
        """
        relations, semantics = [], []
        for teacher_features, teacher_gradient in self.teacher:
            features, gradient = self._ask(student, 1)
            relations.append(relation_similarity(features, teacher_features))
            semantics.append(semantic_similarity(gradient, teacher_gradient) if self.weights[1] else 0.0)
        relation, semantic = (sum(values) / len(values) for values in (relations, semantics))
        return DisWOTScore(relation, semantic, self.weights[0] * relation + self.weights[1] * semantic)

    def _ask(self, model: nn.Module, side: int) -> tuple[Tensor, Tensor]:
        net = copy.deepcopy(model).train()
        for parameter in net.parameters():
            parameter.requires_grad_(True)
        if self.initialization == "gaussian":
            gaussian_reinitialize(net, self.generator)
        return _signals(net, *self.batch, feature=self.features[side], classifier=self.classifiers[side])


def diswot_score(
    teacher: nn.Module,
    student: nn.Module,
    x: Tensor,
    y: Int[Tensor, "batch"],
    *,
    relation_weight: float = 1.0,
    semantic_weight: float = 1.0,
    initialization: Initialization = "gaussian",
    feature: str | tuple[str, str] = "stage:-1",
    classifier: str | tuple[str, str] | None = None,
    repeats: int = 1,
    generator: torch.Generator | None = None,
) -> DisWOTScore:
    """The score of one student; for many students of one teacher, make a `DisWOT` once and call it.

    Both networks are in train mode (norms use the batch); their weights, buffers, gradients and modes are left as they
    are. The arguments are those of `DisWOT`.

    Returns:
        −d_r, −d_s, and relation_weight · (−d_r) + semantic_weight · (−d_s); higher is better.

    Raises:
        ValueError: As `DisWOT`, or classifiers of different widths while `semantic_weight` is positive.

    >>> from tutelage.models import resnet
    >>> net = resnet((1, 8, 8), 4, widths=(8, 16), depths=(1, 1))
    >>> abs(diswot_score(net, net, torch.randn(8, 1, 8, 8), torch.arange(8) % 4, initialization=None).total) < 1e-9
    True
    """
    scorer = DisWOT(
        teacher,
        x,
        y,
        relation_weight=relation_weight,
        semantic_weight=semantic_weight,
        initialization=initialization,
        feature=feature,
        classifier=classifier,
        repeats=repeats,
        generator=generator,
    )
    return scorer(student)


def _signals(
    net: nn.Module, x: Tensor, y: Tensor, *, feature: str | None, classifier: str | None
) -> tuple[Tensor, Tensor]:
    """A network's features and its classifier's gradient; its own gradients are not touched."""
    path = head_path(net) if classifier is None else classifier
    try:
        weight = net.get_submodule(path).weight
    except AttributeError:
        weight = None
    if not isinstance(weight, Tensor) or weight.ndim != 2:
        raise ValueError(f"Expected {path!r} to be the path of a classifier with a weight [classes, width].")
    weight.requires_grad_(True)
    with FeatureTaps(net, {} if feature is None else {"map": feature}) as taps:
        logits = call_model(net, x).logits
    assert logits is not None
    (gradient,) = torch.autograd.grad(functional.cross_entropy(logits, y), weight)
    return taps.features.get("map", logits).detach(), gradient.detach()


def _signed_lengths(gradient: Tensor, eps: float) -> Tensor:
    """Of every row of g_k g_kᵀ once it is divided by its length, or `eps`; with the sign of the row's own entry."""
    lengths: Tensor = gradient * gradient.norm(dim=1, keepdim=True)
    return lengths / lengths.abs().clamp_min(eps)


def _unit(rows: Tensor) -> Tensor:
    """Rows of length 1; a row of zeros stays one."""
    length = rows.norm(dim=1, keepdim=True)
    return rows / torch.where(length > 0, length, 1)
