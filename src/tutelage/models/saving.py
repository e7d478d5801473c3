"""Saved models: weights in safetensors, the specification in JSON beside them. Nothing is ever unpickled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tutelage._checks import nearest
from tutelage.files import errors_name, read_json, read_tensors, write_json, write_tensors
from tutelage.models.specification import (
    ModelSpecification,
    Specification,
    as_specification,
    build_model,
    remember,
    specification_of,
)

_PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")
_STEMS = ("model", "student")


def save_model(path: Path | str, model: nn.Module, specification: Specification | None = None) -> Path:
    """Save a model: its tensors as safetensors and its specification as JSON, each file written atomically.

    Tensors that share memory (tied weights) are written once. The JSON is written last, so that a folder which holds
    it is whole.

    Args:
        path: A file `….safetensors` (the JSON takes the same name with `.json`), or a folder, which gets
            `model.safetensors` and `model.json`.
        model: Any module, on any device, in any dtype.
        specification: What describes the model; by default what it was built from.

    Returns:
        The safetensors file.

    Raises:
        ValueError: Nothing is known about how the model was built, or its state holds something else than tensors.

    >>> import tempfile
    >>> from tutelage.models import mlp
    >>> folder = Path(tempfile.mkdtemp())
    >>> sorted(file.name for file in save_model(folder, mlp(4, 2)).parent.iterdir())
    ['model.json', 'model.safetensors']
    >>> load_model(folder).head
    Linear(in_features=64, out_features=2, bias=True)
    """
    path = Path(path)
    file = path if path.suffix == ".safetensors" else path / "model.safetensors"
    complete = describe_model(model, specification)
    write_tensors(file, _without_aliases(_state(model)), metadata={"format": "pt"})
    write_json(file.with_suffix(".json"), complete.model_dump(mode="json", exclude_none=True))
    return file


def load_model(path: Path | str) -> nn.Module:
    """Load a model that `save_model`, a run or `save_pretrained` wrote.

    Args:
        path: A file `….safetensors` with its JSON beside it; a folder of `save_model`; a run's folder, which holds
            `student.safetensors`; or a folder in the form of `transformers`.

    Returns:
        The model on the CPU, in evaluation mode, in the dtypes of the file, bit for bit what was saved.

    Raises:
        FileNotFoundError: There is no such file or folder, or no model in it.
        ValueError: The weights are pickled, a file is damaged, or the weights do not fit the specification.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"Expected a saved model at {path}, but there is nothing.")
    file = _weights_file(path)
    if file is None:
        from tutelage.models.pretrained import load_pretrained

        return load_pretrained(str(path))
    description = file.with_suffix(".json")
    if not description.exists():
        raise FileNotFoundError(
            f"Expected {description.name}, which describes the model, beside {file}, but there is none "
            "(to use the weights alone, name them as `weights` in a specification)."
        )
    with errors_name(description):
        specification = as_specification(read_json(description)).model_copy(update={"weights": None})
        model = build_model(specification)
    load_weights(model, file, keep_dtype=True)
    remember(model, specification)
    return model.eval()


def load_named(name: str, arguments: Mapping[str, Any], *, num_classes: int | None = None) -> nn.Module:
    """The model behind a specification's name: a saved model, a `transformers` folder, or a Hugging Face name."""
    path = Path(name).expanduser()
    if path.exists() and _weights_file(path) is not None:
        if arguments:
            raise ValueError(
                f"Expected no arguments for the saved model {name!r}, which is whole as it is, "
                f"but got {', '.join(f'`{argument}`' for argument in arguments)}."
            )
        return load_model(path)
    from tutelage.models.pretrained import load_pretrained

    return load_pretrained(name, arguments, num_classes=num_classes)


def load_weights(model: nn.Module, path: Path | str, *, keep_dtype: bool = False) -> None:
    """Replace a model's tensors by those of a safetensors file; every name and shape must fit.

    Args:
        model: Changed in place; tied weights stay tied, and one name for each of them in the file is enough.
        path: A safetensors file.
        keep_dtype: Floating-point tensors take the dtype of the file; by default the model's own stays.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is a pickle or damaged, a name is missing or unknown (the nearest is suggested), or a
            shape differs. The model is as it was.
    """
    path = Path(path).expanduser()
    _refuse_pickle(path)
    state, found = _state(model), read_tensors(path)
    for name in found:
        if name not in state:
            raise ValueError(
                f"Expected {path} to hold only weights of the model, but got {name!r}{nearest(name, state)}."
            )
    written = {_memory(state[name]) for name in found}
    for name, tensor in state.items():
        if name not in found and (_memory(tensor) not in written or not tensor.numel()):
            raise ValueError(f"Expected {path} to hold {name!r}, but it does not{nearest(name, found)}.")
        if name in found and found[name].shape != tensor.shape:
            raise ValueError(
                f"Expected {name!r} in {path} to have shape {tuple(tensor.shape)}, but got {tuple(found[name].shape)}."
            )
    if keep_dtype:
        for name, tensor in model.state_dict(keep_vars=True).items():
            if name in found and tensor.dtype != found[name].dtype and tensor.is_floating_point():
                tensor.data = tensor.data.to(found[name].dtype)
    model.load_state_dict(found, strict=False)


def _weights_file(path: Path) -> Path | None:
    """The safetensors file of one of our own saved models, or none where `transformers` has to read the folder."""
    if path.is_file():
        _refuse_pickle(path)
        if path.suffix != ".safetensors":
            raise ValueError(f"Expected a folder or a safetensors file, but got {path}.")
        return path
    for stem in _STEMS:
        file = path / f"{stem}.safetensors"
        if file.exists() and (stem != "model" or file.with_suffix(".json").exists()):
            return file
    if (path / "config.json").exists() and not (path / "pytorch_model.bin").exists():
        return None
    if next(path.glob("*.safetensors"), None) is not None and (path / "config.json").exists():
        return None
    for pickled in sorted(path.iterdir()):
        _refuse_pickle(pickled)
    raise FileNotFoundError(
        f"Expected {path} to hold a saved model (model.safetensors with model.json, a run's student.safetensors, or a "
        "transformers config.json), but it holds none."
    )


def _refuse_pickle(path: Path) -> None:
    if path.suffix in _PICKLES:
        raise ValueError(
            f"Expected weights in safetensors, but {path} is a pickle, which can run code when it is read. If you "
            "trust it, convert it once: `state = torch.load(path, weights_only=True)`, then `safetensors.torch."
            "save_file({name: value.clone() for name, value in state.items()}, 'model.safetensors')`."
        )


def describe_model(model: nn.Module, specification: Specification | None = None) -> ModelSpecification:
    """The specification from which a model can be built again without another file, as `save_model` writes it.

    Args:
        model: Any module.
        specification: What describes it; by default what it was built from.

    Raises:
        ValueError: Nothing is known about how it was built.

    >>> from tutelage.models import mlp
    >>> describe_model(mlp(4, 2)).name
    'mlp'
    """
    from tutelage.models.pretrained import configuration_of
    from tutelage.models.specification import BUILDERS

    found = specification_of(model) if specification is None else as_specification(specification)
    configuration = configuration_of(model)
    if found is None and configuration is not None:
        found = ModelSpecification(name=str(configuration["model_type"]))
    if found is None:
        raise ValueError(
            f"Expected argument `specification` to say how {type(model).__name__} is built "
            "(a builder's name, or `package.module:factory`, with arguments), but got None."
        )
    rebuilt_by_name = found.name in BUILDERS or ":" in found.name
    return found.model_copy(update={"weights": None, "configuration": None if rebuilt_by_name else configuration})


def _state(model: nn.Module) -> dict[str, Tensor]:
    state: dict[str, Any] = dict(model.state_dict())
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"Expected the state of {type(model).__name__} to be tensors, but {name!r} is none.")
    return state


def _without_aliases(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    kept: dict[str, Tensor] = {}
    seen: set[tuple[object, ...]] = set()
    for name, tensor in state.items():
        key = _memory(tensor)
        if not tensor.numel() or key not in seen:
            kept[name] = tensor
        seen.add(key)
    return kept


def _memory(tensor: Tensor) -> tuple[object, ...]:
    """Equal for two tensors that are the same piece of memory, read in the same way."""
    return tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride()
