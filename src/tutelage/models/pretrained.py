"""Models that `transformers` knows, from a folder, the local cache or the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import nn

from tutelage._checks import check_option
from tutelage.models.specification import ModelSpecification, remember

_TASKS = {
    "image-classification": "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    "sequence-classification": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "causal-lm": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
}
_DAMAGE = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError)
_REFUSED = ("trust_remote_code", "use_safetensors", "weights_only", "ignore_mismatched_sizes")


def load_pretrained(
    name: str, arguments: Mapping[str, Any] | None = None, *, num_classes: int | None = None
) -> nn.Module:
    """Load a classifier of images, a classifier of sequences or a causal language model, with its weights.

    The class is the one that the configuration names under `architectures`. Only safetensors are read, code that
    comes with a model is never run, and `HF_HUB_OFFLINE=1` keeps the hub out of it.

    Args:
        name: A folder in the form of `save_pretrained`, or a name on the hub.
        arguments: For `from_pretrained` (`revision`, `dtype`, `attn_implementation` …). `num_labels` asks for that
            many classes: a head of another size is replaced by a random one. `task` (`"image-classification"`,
            `"sequence-classification"`, `"causal-lm"`) puts a random head on a model that has none of the three.
        num_classes: The classes of the data. It sizes a new head, and an existing one must agree with it.

    Returns:
        The model on the CPU, in evaluation mode.

    Raises:
        ValueError: The model is of another kind, has other classes, has only pickled weights, or an argument is
            refused.
        FileNotFoundError: There is no such model here, nor (unless offline) on the hub.
    """
    import transformers

    arguments = dict(arguments or {})
    for argument in _REFUSED:
        if argument in arguments:
            raise ValueError(
                f"Expected the arguments of the model {name!r} to leave out `{argument}`; it is not used here."
            )
    task = arguments.pop("task", None)
    source = {key: arguments[key] for key in ("revision", "subfolder", "cache_dir", "token") if key in arguments}
    path = str(Path(name).expanduser()) if Path(name).expanduser().exists() else name
    try:
        configuration = transformers.AutoConfig.from_pretrained(path, trust_remote_code=False, **source)
    except Exception as error:  # a damaged configuration may raise anything
        raise FileNotFoundError(
            f"Expected {name!r} to be a folder or a Hugging Face name of a `transformers` model, "
            f"but got: {_first_line(error)}"
        ) from error
    model_class = _class_of(configuration, task, name)
    if task is not None and task != "causal-lm" and num_classes is not None:
        arguments.setdefault("num_labels", num_classes)
    resized = arguments.get("num_labels", configuration.num_labels) != configuration.num_labels
    try:
        model: nn.Module = model_class.from_pretrained(
            path, use_safetensors=True, ignore_mismatched_sizes=resized, **arguments
        )
    except (
        SafetensorError,
        RuntimeError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        ArithmeticError,
    ) as error:
        raise ValueError(f"Expected the model {name!r} to be whole, but got: {_first_line(error)}") from error
    except OSError as error:
        raise FileNotFoundError(
            f"Expected the model {name!r} to have weights in safetensors, but got: {_first_line(error)}"
        ) from error
    classes = model.config.num_labels  # type: ignore[union-attr]
    classifier = model_class.__name__ not in _classes("causal-lm")
    if classifier and num_classes is not None and classes != num_classes:
        raise ValueError(
            f"Expected the model {name!r} to have {num_classes} classes, as the data has, but it has {classes} "
            f"(the argument `num_labels: {num_classes}` replaces its head by a random one)."
        )
    remember(model, ModelSpecification(name=name, arguments=arguments | ({"task": task} if task else {})))
    return model.eval()


def new_model(class_name: str, **settings: Any) -> nn.Module:
    """A `transformers` model of the named class with random weights, from the settings of its configuration."""
    import transformers

    model_class: Any = getattr(transformers, class_name)
    model: nn.Module = model_class(model_class.config_class(**settings))
    return model


def from_configuration(configuration: Mapping[str, Any]) -> nn.Module:
    """The model of a `transformers` configuration as saved by `save_model`, with random weights."""
    import transformers

    known = dict(configuration)
    model_type = str(known.pop("model_type", ""))
    if model_type not in transformers.CONFIG_MAPPING:
        raise ValueError(f"Expected `model_type` to be one that transformers knows, but got {model_type!r}.")
    config = transformers.CONFIG_MAPPING[model_type].from_dict(known)
    model: nn.Module = _class_of(config, None, model_type)(config)
    return model


def configuration_of(model: nn.Module) -> dict[str, Any] | None:
    """The configuration of a `transformers` model with its architecture, or none for another module."""
    config = getattr(model, "config", None)
    if config is None or not hasattr(config, "model_type") or not hasattr(model, "save_pretrained"):
        return None
    found: dict[str, Any] = config.to_dict()
    return found | {"architectures": [type(model).__name__], "model_type": config.model_type}


def _classes(task: str) -> set[str]:
    from transformers.models.auto import modeling_auto

    found = getattr(modeling_auto, _TASKS[task]).values()  # a name, or several where a model type has several classes
    return {name for entry in found for name in (entry if isinstance(entry, tuple | list) else (entry,))}


def _class_of(configuration: Any, task: str | None, name: str) -> Any:
    import transformers

    if task is not None:
        check_option(task, "task", _TASKS)
        from transformers.models.auto import modeling_auto

        by_type = getattr(modeling_auto, _TASKS[task])
        if configuration.model_type not in by_type:
            raise ValueError(
                f"Expected the model {name!r} to suit the task {task!r}, but a {configuration.model_type} does not."
            )
        return getattr(transformers, by_type[configuration.model_type])
    architecture = (configuration.architectures or ["none"])[0]
    if not any(architecture in _classes(option) for option in _TASKS):
        listed = ", ".join(repr(option) for option in _TASKS)
        raise ValueError(
            f"Expected the model {name!r} to be a classifier or a causal language model, but its architecture is "
            f"{architecture} (the argument `task`, one of {listed}, puts a new head on it)."
        )
    return getattr(transformers, architecture)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:500].rstrip(".") + "."
