"""Models for other runtimes: safetensors, `torch.export` and ONNX, each checked against the model once written."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import logging
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tutelage._checks import check_option, check_positive
from tutelage.batch import Inputs
from tutelage.files import sync_folder
from tutelage.models.call import call_model
from tutelage.models.saving import load_model, save_model
from tutelage.models.specification import Specification, specification_of

FORMATS = ("safetensors", "torch_export", "onnx")
_ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True, slots=True)
class Exported:
    """One exported format.

    Attributes:
        format: What was written.
        path: The file to load; its companions (`model.json`, `model.onnx.data`) lie beside it.
        bytes: Size of the file and its companions.
        largest_difference: Largest |exported − original| logit on the example, over the whole batch and one sample.
        seconds: Time of writing and checking.
    """

    format: str
    path: Path
    bytes: int
    largest_difference: float
    seconds: float


def export_model(
    model: nn.Module,
    folder: Path | str,
    *,
    example_inputs: Inputs,
    formats: Sequence[str] = FORMATS,
    specification: Specification | None = None,
    tolerance: float = 1e-4,
) -> list[Exported]:
    """Write a model in other formats, load each file again, and compare its logits with the model's.

    A copy in evaluation mode on the CPU is exported; for `torch_export` and `onnx` it is in float32. The model stays
    as it is. These two programs map the inputs to logits `[batch, …]` for any batch size; their other sizes are the
    example's. Inputs of the ONNX graph carry the names of `example_inputs`, or `inputs` for a tensor; the output is
    `logits`. A file moves into the folder only once it has passed its check.

    Args:
        model: Any model that `call_model` can call.
        folder: Gets `model.safetensors` with `model.json`, `model.pt2`, `model.onnx`; made if it is not there.
        example_inputs: A batch, on any device; one sample is enough.
        formats: Any of `"safetensors"`, `"torch_export"`, `"onnx"`.
        specification: How the model is built, for `safetensors`; by default what it was built from.
        tolerance: Largest allowed difference, times the largest |logit| where that is above 1; `safetensors` must
            agree exactly.

    Returns:
        One entry a format, in the order asked for.

    Raises:
        ValueError: A format is unknown, the model cannot be exported, or the logits differ by more than `tolerance`.
        ImportError: A package for ONNX is missing.

    >>> from tutelage.models import mlp
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     files = export_model(mlp(4, 2), folder, example_inputs=torch.ones(1, 4), formats=("safetensors",))
    ...     files[0].path.name, files[0].largest_difference
    ('model.safetensors', 0.0)
    """
    if not formats:
        raise ValueError(f"Expected argument `formats` to name at least one of {', '.join(map(repr, FORMATS))}.")
    for name in formats:
        check_option(name, "formats", FORMATS)
    check_positive(tolerance, "tolerance")
    if "onnx" in formats:
        missing = [package for package in _ONNX_PACKAGES if importlib.util.find_spec(package) is None]
        if missing:
            raise ImportError(f"ONNX export needs {', '.join(missing)}: pip install 'tutelage[export]'.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    specification = specification or specification_of(model)
    model = copy.deepcopy(model).cpu().eval()
    inputs = _at_least_two(example_inputs)
    program = _Logits(copy.deepcopy(model), inputs).float().eval()
    tensors = program.tensors(inputs)
    exported = []
    for name in dict.fromkeys(formats):
        began = time.perf_counter()
        with tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as workplace, _quiet():
            if name == "safetensors":
                file = save_model(workplace, model, specification)
                restored = _Logits(load_model(file), inputs).float()
                difference = _compare(program, restored, tensors, 0.0, name)
            else:
                write = _torch_export if name == "torch_export" else _onnx
                file, difference = write(program, Path(workplace), tensors, tolerance)
            written = sorted(Path(workplace).iterdir(), key=lambda part: part == file)  # companions first
            size = sum(part.stat().st_size for part in written)
            for part in written:
                part.replace(folder / part.name)
        sync_folder(folder)
        exported.append(Exported(name, folder / file.name, size, difference, time.perf_counter() - began))
    return exported


def example_inputs(
    model: nn.Module, *, input_shape: Sequence[int] | None = None, batch_size: int = 2, seed: int = 0
) -> Inputs:
    """Random inputs that suit a model, as far as its specification or its `transformers` configuration says.

    Args:
        model: Any model.
        input_shape: Shape of one sample, without the batch; by default what the model says.
        batch_size: Number of samples.
        seed: Of the generator.

    Returns:
        Normal values `[batch_size, *input_shape]`, or, for a language model, `input_ids` and `attention_mask`
        `[batch_size, time]` with at most 16 tokens.

    Raises:
        ValueError: The model does not say, and no shape is given.

    >>> from tutelage.models import convnet
    >>> example_inputs(convnet((1, 8, 8), 10)).shape
    torch.Size([2, 1, 8, 8])
    """
    generator = torch.Generator().manual_seed(seed)
    specification, config = specification_of(model), getattr(model, "config", None)
    if input_shape is None and specification is not None:
        known = specification.arguments.get("input_shape")
        input_shape = (known,) if isinstance(known, int) else known
    if input_shape is None and config is not None:
        if getattr(model, "main_input_name", None) == "input_ids":
            length = min(16, getattr(config, "max_position_embeddings", None) or 16)
            tokens = torch.randint(config.vocab_size, (batch_size, length), generator=generator)
            return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
        size, channels = getattr(config, "image_size", None), getattr(config, "num_channels", 3)
        if size is not None:
            input_shape = (channels, size, size) if isinstance(size, int) else (channels, *size)
    if input_shape is None:
        raise ValueError(
            f"Expected argument `input_shape` to be given (a sample's shape, without the batch), since "
            f"{type(model).__name__} does not say what it reads."
        )
    return torch.randn(batch_size, *input_shape, generator=generator)


class _Logits(nn.Module):
    """A model as a function of tensors by position, which is what exporters want, to its logits."""

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        super().__init__()
        self.model = model
        self.names = list(inputs) if isinstance(inputs, dict) else None

    def forward(self, *tensors: Tensor) -> Tensor:
        named = tensors[0] if self.names is None else dict(zip(self.names, tensors, strict=True))
        logits = call_model(self.model, named).logits
        assert logits is not None
        return logits

    def tensors(self, inputs: Inputs) -> tuple[Tensor, ...]:
        found = tuple(inputs.values()) if isinstance(inputs, dict) else (inputs,)
        return tuple(tensor.float() if tensor.is_floating_point() else tensor for tensor in found)


def _torch_export(
    program: _Logits, workplace: Path, tensors: tuple[Tensor, ...], tolerance: float
) -> tuple[Path, float]:
    file = workplace / "model.pt2"
    torch.export.save(_trace(program, tensors), file)
    restored = torch.export.load(file).module()  # a file that we have written a moment ago
    return file, _compare(program, restored, tensors, tolerance, "torch_export")


def _onnx(program: _Logits, workplace: Path, tensors: tuple[Tensor, ...], tolerance: float) -> tuple[Path, float]:
    import onnxruntime

    file = workplace / "model.onnx"
    traced = copy.deepcopy(program)
    choose_attention = getattr(traced.model, "set_attn_implementation", None)
    if callable(choose_attention):
        choose_attention("eager")  # fused attention does not always decompose into ONNX operators
    names = program.names or ["inputs"]
    graph = torch.onnx.export(
        _trace(traced, tensors),
        tensors,
        input_names=names,
        output_names=["logits"],
        dynamic_shapes=(tuple({0: "batch"} for _ in tensors),),
        dynamo=True,
        verbose=False,
    )
    assert graph is not None
    large = sum(value.nbytes for value in program.state_dict().values()) > 1 << 30  # protobuf ends at 2 GiB
    graph.save(file, external_data=large)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    used = {value.name for value in session.get_inputs()}

    def restored(*values: Tensor) -> Tensor:
        feed = {name: value.numpy() for name, value in zip(names, values, strict=True) if name in used}
        return torch.from_numpy(session.run(["logits"], feed)[0])

    return file, _compare(program, restored, tensors, tolerance, "onnx")


def _trace(program: _Logits, tensors: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch")
    try:
        return torch.export.export(program, tensors, dynamic_shapes=(tuple({0: batch} for _ in tensors),))
    except Exception as error:  # the exporter raises many kinds, each pages long
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"Expected {type(program.model).__name__} to be exportable, but torch.export says: {reason}"
        ) from error


def _compare(program: nn.Module, restored: Any, tensors: tuple[Tensor, ...], tolerance: float, name: str) -> float:
    """The largest difference over the whole example and its first sample, so that the batch is known to be free."""
    differences = []
    for rows in (len(tensors[0]), 1):
        part = tuple(tensor[:rows] for tensor in tensors)
        with torch.no_grad():
            differences.append(_difference(restored(*part), program(*part), tolerance, name))
    return max(differences)


def _difference(restored: Tensor, original: Tensor, tolerance: float, name: str) -> float:
    difference = float((restored.double() - original.double()).abs().max())
    allowed = tolerance * max(1.0, float(original.abs().max()))
    if not difference <= allowed:
        raise ValueError(
            f"Expected the logits of the exported model ({name}) to be within {allowed:.3g} of the model's, "
            f"but they differ by {difference:.3g}."
        )
    return difference


def _at_least_two(inputs: Inputs) -> Inputs:
    """The inputs on the CPU, a single sample doubled: from one sample a trace would conclude that there is only one."""
    if isinstance(inputs, dict):
        return {name: _two(value) for name, value in inputs.items()}
    return _two(inputs)


def _two(value: Tensor) -> Tensor:
    value = value.detach().cpu()
    return torch.cat([value, value]) if len(value) == 1 else value


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Exporters warn about their own insides; what matters to the caller is raised."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
