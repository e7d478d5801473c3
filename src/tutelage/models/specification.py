"""What describes a model: a name and arguments, in a form that a config, a saved file and Python share."""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import nn

from tutelage._checks import nearest
from tutelage.registry import LazyRegistry, resolve

BUILDERS = LazyRegistry(
    {
        "causal_lm": "tutelage.models.language:causal_lm",
        "centre_detector": "tutelage.models.detection:centre_detector",
        "convnet": "tutelage.models.plain:convnet",
        "convnext": "tutelage.models.vision:convnext",
        "csrnet": "tutelage.models.csrnet:csrnet",
        "encoder_lm": "tutelage.models.language:encoder_lm",
        "mlp": "tutelage.models.plain:mlp",
        "mlp_mixer": "tutelage.models.mixer:mlp_mixer",
        "resnet": "tutelage.models.vision:resnet",
        "segmenter": "tutelage.models.segmentation:segmenter",
        "swin": "tutelage.models.vision:swin",
        "transformers_segmenter": "tutelage.models.segmentation:transformers_segmenter",
        "vit": "tutelage.models.vision:vit",
    }
)
"""The builders that a specification can name without a module."""

_ATTRIBUTE = "tutelage_specification"
_Parameters = ParamSpec("_Parameters")
_Model = TypeVar("_Model", bound=nn.Module)


class ModelSpecification(BaseModel):
    """A model in words: enough to build it again, and nothing but JSON.

    Attributes:
        name: A builder (`mlp`, `mlp_mixer`, `convnet`, `resnet`, `vit`, `swin`, `convnext`, `segmenter` …),
            a factory of your own (`package.module:factory`), or a folder or Hugging Face name of a `transformers`
            model.
        arguments: What the builder or factory is called with; for a `transformers` model, what `from_pretrained` is
            (see `tutelage.models.pretrained`).
        weights: A safetensors file whose tensors replace the initial ones.
        configuration: A `transformers` configuration with `architectures`, which stands for the one behind `name`, so
            that a saved model needs no other file; `save_model` fills it in.

    A plain string is a name without arguments.

    >>> ModelSpecification.model_validate("mlp").name
    'mlp'
    >>> ModelSpecification(name="mlp", arguments={"hidden": (8,)}).model_dump(mode="json", exclude_none=True)
    {'name': 'mlp', 'arguments': {'hidden': [8]}}
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    arguments: dict[str, Any] = Field(default_factory=dict)
    weights: str | None = None
    configuration: dict[str, Any] | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


Specification = ModelSpecification | Mapping[str, Any] | str
"""A `ModelSpecification`, the same as a dict, or only its name."""


def as_specification(specification: Specification) -> ModelSpecification:
    """The specification that a dict or a name stands for; `ValueError` in one line when it stands for none.

    >>> as_specification({"name": "mlp", "argumets": {}})
    Traceback (most recent call last):
    ValueError: Expected a model to be described by `name`, `arguments` and `weights`,
    but `argumets`: Extra inputs are not permitted (did you mean 'arguments'?).
    """
    if isinstance(specification, ModelSpecification):
        if type(specification) is ModelSpecification:
            return specification
        fields = ModelSpecification.model_fields  # a config's teacher says more than a saved model should hold
        return ModelSpecification(**{name: getattr(specification, name) for name in fields})
    try:
        return ModelSpecification.model_validate(specification)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        hint = nearest(key, ModelSpecification.model_fields) if first["type"] == "extra_forbidden" else ""
        raise ValueError(
            f"Expected a model to be described by `name`, `arguments` and `weights`, but `{key}`: {first['msg']}{hint}."
        ) from None


def described(builder: Callable[_Parameters, _Model]) -> Callable[_Parameters, _Model]:
    """Make a builder's models remember the builder's name and all of its arguments, for `save_model`."""
    signature = inspect.signature(builder)

    @functools.wraps(builder)
    def build(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Model:
        model = builder(*args, **kwargs)
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        remember(model, ModelSpecification(name=builder.__name__, arguments=dict(bound.arguments)))
        return model

    return build


def remember(model: nn.Module, specification: ModelSpecification) -> None:
    """Note on a model what it was built from; a deep copy keeps the note, and a saved file holds it."""
    model.__dict__[_ATTRIBUTE] = specification


def specification_of(model: nn.Module) -> ModelSpecification | None:
    """What a model was built from, when a builder, `build_model` or `load_model` made it.

    >>> from tutelage.models import mlp
    >>> specification_of(mlp(4, 2)).arguments["num_classes"]
    2
    """
    found = model.__dict__.get(_ATTRIBUTE)
    return found if isinstance(found, ModelSpecification) else None


def build_model(
    specification: Specification,
    *,
    num_classes: int | None = None,
    input_shape: tuple[int, ...] | None = None,
    vocab_size: int | None = None,
) -> nn.Module:
    """Build the model that a specification describes, with random weights drawn from PyTorch's global generator.

    Weights are random for builders, pretrained for `transformers` models, and those of the file in either case when
    the specification names `weights`.

    Args:
        specification: See `ModelSpecification`.
        num_classes: What the data says about the classes: fills in the argument of this name where the builder has
            one and the specification leaves it out. A pretrained classifier is checked against it.
        input_shape: The same for the shape of one sample, without the batch.
        vocab_size: The same for the number of tokens.

    Returns:
        The model on the CPU, in training mode (a `transformers` model that is read from files: evaluation mode).
        `specification_of` gives its complete specification.

    Raises:
        ValueError: A name, an argument or a key is unknown (the nearest is suggested), an argument is missing, or the
            weights do not fit.

    >>> build_model("mlp", num_classes=3, input_shape=(4,)).head
    Linear(in_features=64, out_features=3, bias=True)
    >>> build_model("mpl", num_classes=3, input_shape=(4,))
    Traceback (most recent call last):
    ValueError: Expected the model to be one of 'causal_lm', ... but got 'mpl' (did you mean 'mlp'?).
    """
    specification = as_specification(specification)
    name = specification.name
    known = {"num_classes": num_classes, "input_shape": input_shape, "vocab_size": vocab_size}
    if specification.configuration is not None:
        from tutelage.models.pretrained import from_configuration

        model = from_configuration(specification.configuration)
    elif name in BUILDERS or ":" in name:
        factory = resolve(name, BUILDERS, "model")
        _check_makes_models(name, factory)
        specification = specification.model_copy(update={"arguments": _complete(specification, factory, known)})
        model = factory(**specification.arguments)
        if not isinstance(model, nn.Module):
            raise ValueError(f"Expected the model {name!r} to make an `nn.Module`, but got {type(model).__name__}.")
    elif Path(name).expanduser().exists() or "/" in name:
        from tutelage.models.saving import load_named

        model = load_named(name, specification.arguments, num_classes=num_classes)
        specification = specification_of(model) or specification
    else:
        listed = ", ".join(repr(option) for option in sorted(BUILDERS))
        raise ValueError(
            f"Expected the model to be one of {listed}, `package.module:factory`, a folder, or a Hugging Face name "
            f"(`owner/name`), but got {name!r}{nearest(name, BUILDERS)}."
        )
    remember(model, specification)
    if specification.weights is not None:
        from tutelage.models.saving import load_weights

        load_weights(model, specification.weights)
    return model


def _check_makes_models(name: str, factory: Any) -> None:
    """Refuse, before it is called, what does not say that it makes a module and is not the user's own code.

    A saved model names its factory, so a file from a stranger must not get to call `os:system`.
    """
    while isinstance(factory, functools.partial):
        factory = factory.func
    if isinstance(factory, type) and issubclass(factory, nn.Module):
        return
    with contextlib.suppress(NameError, TypeError, AttributeError):
        made = get_type_hints(inspect.unwrap(factory)).get("return")
        if isinstance(made, type) and issubclass(made, nn.Module):
            return
    module = getattr(factory, "__module__", None) or ""
    file = Path(getattr(sys.modules.get(module), "__file__", None) or os.__file__)
    installed = {"site-packages", "dist-packages"} & set(file.parts) or file.is_relative_to(Path(os.__file__).parent)
    if installed and module != "__main__":
        raise ValueError(
            f"Expected the model {name!r} to be a class of modules, or a function that is annotated to return one "
            "(`-> nn.Module`), since a saved model names it and it will be called; but it is neither."
        )


def _complete(
    specification: ModelSpecification, factory: Callable[..., Any], known: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments with what is known about the data filled in, once it is sure that the factory takes them."""
    arguments = dict(specification.arguments)
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # some callables written in C have no signature
        return arguments
    names = {
        parameter.name
        for parameter in parameters
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    arguments |= {
        name: value for name, value in known.items() if value is not None and name in names and name not in arguments
    }
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        for argument in arguments:
            if argument not in names:
                listed = ", ".join(f"`{name}`" for name in names)
                raise ValueError(
                    f"Expected the arguments of the model {specification.name!r} to be among {listed}, "
                    f"but got {argument!r}{nearest(argument, names)}."
                )
    for parameter in parameters:
        if parameter.name in names and parameter.default is parameter.empty and parameter.name not in arguments:
            raise ValueError(
                f"Expected the model {specification.name!r} to be given `{parameter.name}`, but it is not."
            )
    return arguments
