"""`tutelage cache`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def cache(
    teacher: Annotated[
        str, typer.Option(help="A saved model or run, a transformers name or path, or package.module:factory.")
    ],
    data: Annotated[str, typer.Option(help="Built-in name, folder, file, or package.module:factory.")],
    out: Annotated[Path, typer.Option(help="The cache's folder; an interrupted cache in it is resumed.")],
    data_option: Annotated[
        list[str] | None, typer.Option("--data-option", help="An option of the data, such as `flat=true`; repeatable.")
    ] = None,
    split: Annotated[str, typer.Option(help="`train`, `validation` or `test`.")] = "train",
    logits: Annotated[bool, typer.Option(help="Keep what the teacher says about the classes.")] = True,
    top_k: Annotated[int | None, typer.Option(help="Keep the k likeliest classes and the mass of the rest.")] = None,
    embedding: Annotated[bool, typer.Option("--embedding", help="Keep what the teacher's head reads.")] = False,
    tap: Annotated[
        list[str] | None, typer.Option("--tap", help="Keep a feature: name=module.path; repeatable.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="`float16` or `float32`.")] = "float16",
    batch_size: Annotated[int, typer.Option(help="Samples in a call of the teacher.")] = 256,
    device: Annotated[str | None, typer.Option(help="Where to run; the GPU by default if there is one.")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Check every checksum at the end.")] = False,
    endpoint: Annotated[
        str | None,
        typer.Option(help="Ask a language model served at this OpenAI-compatible URL; --teacher is its name there."),
    ] = None,
    form: Annotated[str, typer.Option(help="How that server tells log-probabilities: `vllm` or `openai`.")] = "vllm",
    api_key_variable: Annotated[
        str | None, typer.Option(help="Environment variable that holds the server's key.")
    ] = None,
) -> None:
    """Ask a teacher once about every sample, and keep its signals for any number of students."""
    import torch

    from tutelage._checks import check_option
    from tutelage.data import load_data
    from tutelage.models import build_model, load_model
    from tutelage.reporting.saved_models import parse_options
    from tutelage.teachers import FrozenTeacher, TeacherCache, build_cache

    check_option(split, "split", ("train", "validation", "test"))
    check_option(dtype, "dtype", ("float16", "float32"))
    taps = {name: str(path) for name, path in parse_options(tap or []).items()}
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    loaded = load_data(data, **parse_options(data_option or []))
    samples = getattr(loaded, split)
    if endpoint is not None:
        _cache_served(teacher, endpoint, form, api_key_variable, loaded, samples, out, top_k)
        return
    num_classes = None if loaded.task == "causal_lm" else loaded.num_classes
    model = load_model(teacher) if Path(teacher).exists() else build_model(teacher, num_classes=num_classes)
    frozen = FrozenTeacher(model, embedding=embedding, taps=taps).to(place)
    signals = ["logits"] * logits + ["embedding"] * embedding + [f"features.{name}" for name in taps]
    made = build_cache(
        frozen,
        samples,
        out,
        signals=signals,
        top_k=top_k,
        dtype=dtype,  # type: ignore[arg-type]
        batch_size=batch_size,
        progress=lambda done, total: typer.echo(f"Shard {done} of {total}.", err=True),
    )
    if verify:
        TeacherCache(out, teacher=frozen, data=samples, verify="full")
        typer.echo("Every file is as it was written.")
    full = made.full_logits_bytes_per_sample
    against = "" if full is None else f" (all logits in float32: {full}, {full / made.bytes_per_sample:.3g} times that)"
    typer.echo(f"{out}: {len(made)} samples, {made.bytes_per_sample} bytes a sample{against}.")


def _cache_served(
    teacher: str,
    url: str,
    form: str,
    api_key_variable: str | None,
    data: Any,
    samples: Any,
    out: Path,
    top_k: int | None,
) -> None:
    from tutelage._checks import check_option
    from tutelage.teacher_settings import EndpointSettings
    from tutelage.teachers import ServedTeacher, build_cache

    check_option(form, "form", ("vllm", "openai"))
    if data.task != "causal_lm":
        raise ValueError(f"Expected data for a language model with `--endpoint`, but {data.name} is for {data.task}.")
    settings = EndpointSettings(base_url=url, form=form, api_key_variable=api_key_variable)  # type: ignore[arg-type]
    asked = settings.connect(teacher, out.with_name(out.name + "-responses"))
    served = ServedTeacher(asked, data.num_classes, top_k=top_k or 20, form=settings.form)
    made = build_cache(
        served,
        samples,
        out,
        top_k=served.top_k,
        batch_size=settings.concurrency,
        progress=lambda done, total: typer.echo(f"Shard {done} of {total}.", err=True),
    )
    meter = asked.meter
    typer.echo(
        f"{out}: {len(made)} samples, {made.bytes_per_sample} bytes a sample; {meter.requests} requests, "
        f"{meter.from_cache} answers from disk, {meter.prompt_tokens} tokens sent."
    )
