"""A classifier that predicts subclasses and answers in classes, so that nobody who uses it need know of subclasses."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from tutelage._checks import check_at_least
from tutelage.features.heads import SubclassHead
from tutelage.models.call import call_model, head_path
from tutelage.models.saving import describe_model
from tutelage.models.specification import ModelSpecification, Specification, build_model, remember
from tutelage.outputs import Outputs


class SubclassClassifier(nn.Module):
    """A model whose output layer is a `SubclassHead`, with its answer summed up by class.

    It gives `Outputs` whose `logits` are the class scores `[batch, classes]` (`SubclassHead.class_scores`), so that
    label losses, evaluation, the report card and export treat it like any classifier, and whose
    `features["subclasses"]` are the logits of the subclasses `[batch, classes * subclasses]`, which objectives on
    subclasses read.

    Args:
        model: Its output layer (see `tutelage.models.head_path`) is replaced in place by a `SubclassHead` whose rows
            are copies, so that class probabilities stay what they were; a `SubclassHead` that is there already stays.
        num_subclasses: S.

    Raises:
        ValueError: The model has no output layer, or a `SubclassHead` with another number of subclasses.

    >>> import torch
    >>> from tutelage.models import mlp
    >>> outputs = SubclassClassifier(mlp(4, 2), num_subclasses=3)(torch.zeros(5, 4))
    >>> tuple(outputs.logits.shape), tuple(outputs.features["subclasses"].shape)
    ((5, 2), (5, 6))
    """

    def __init__(self, model: nn.Module, num_subclasses: int = 5) -> None:
        super().__init__()
        check_at_least(num_subclasses, "num_subclasses", 1)
        path = head_path(model)
        head = model.get_submodule(path)
        assert isinstance(head, nn.Linear)
        if not isinstance(head, SubclassHead):
            head = SubclassHead.from_linear(head, num_subclasses)
            if path:
                model.set_submodule(path, head)
            else:
                model = head
        elif head.num_subclasses != num_subclasses:
            raise ValueError(
                f"Expected argument `num_subclasses` to be {head.num_subclasses} as in the model, "
                f"but got {num_subclasses}."
            )
        self.model = model
        self._head_path = path

    @property
    def head(self) -> SubclassHead:
        """The output layer."""
        head = self.model.get_submodule(self._head_path)
        assert isinstance(head, SubclassHead)
        return head

    def forward(self, inputs: Tensor | None = None, **named: Tensor) -> Outputs:
        """Class scores and subclass logits of one tensor, or of tensors by name."""
        outputs = call_model(self.model, named if inputs is None else inputs)
        if outputs.logits is None:
            raise ValueError(f"Expected {type(self.model).__name__} to give logits, but it gives none.")
        features = {**outputs.features, "subclasses": outputs.logits}
        return Outputs(self.head.class_scores(outputs.logits), outputs.embedding, features)


def subclass_classifier(
    model: Specification,
    num_classes: int,
    *,
    num_subclasses: int = 5,
    input_shape: int | Sequence[int] | None = None,
    vocab_size: int | None = None,
) -> SubclassClassifier:
    """A `SubclassClassifier` from a description, as a config names it: `tutelage.features:subclass_classifier`.

    Args:
        model: What describes the model within (see `tutelage.models.ModelSpecification`).
        num_classes: C; in a run, that of the data.
        num_subclasses: S.
        input_shape: Shape of one sample, if the model within needs it; in a run, that of the data.
        vocab_size: Number of tokens, likewise.

    Raises:
        ValueError: As `build_model` and `SubclassClassifier`.

    >>> subclass_classifier({"name": "mlp", "arguments": {"hidden": [8]}}, 2, input_shape=(4,)).head.out_features
    10
    """
    shape = None if input_shape is None else (input_shape,) if isinstance(input_shape, int) else tuple(input_shape)
    plain = build_model(model, num_classes=num_classes, input_shape=shape, vocab_size=vocab_size)
    arguments = {"model": describe_model(plain).model_dump(mode="json", exclude_none=True), "num_classes": num_classes}
    classifier = SubclassClassifier(plain, num_subclasses)
    remember(
        classifier,
        ModelSpecification(
            name="tutelage.features:subclass_classifier",
            arguments=arguments | {"num_subclasses": num_subclasses, "input_shape": shape},
        ),
    )
    return classifier
