"""`tutelage adapt`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def adapt(
    model: Annotated[Path, typer.Argument(help="The saved classifier.")],
    stream: Annotated[
        str, typer.Option(help="A .npy or .npz file, a folder of images, or named data (its test part).")
    ] = ...,  # type: ignore[assignment]
    source: Annotated[
        str | None, typer.Option(help="The data the model was trained on; needed by `rmt`, and for the drift plot.")
    ] = None,
    source_option: Annotated[
        list[str] | None, typer.Option("--source-option", help="An option of the source, such as `flat=true`.")
    ] = None,
    stream_option: Annotated[
        list[str] | None, typer.Option("--stream-option", help="An option of a stream of named data.")
    ] = None,
    way: Annotated[str, typer.Option(help="`rmt`, `tent`, `batch_statistics` or `none`.")] = "rmt",
    batch_size: Annotated[int, typer.Option(help="Samples answered, and learned from, at a time.")] = 64,
    learning_rate: Annotated[float, typer.Option(help="Of Adam.")] = 5e-4,
    momentum: Annotated[float, typer.Option(help="Of the mean teacher.")] = 0.99,
    warm_up: Annotated[int, typer.Option(help="Steps of `rmt` on source data before the stream.")] = 50,
    flip: Annotated[bool, typer.Option("--flip", help="Images may be mirrored.")] = False,
    size: Annotated[
        int | None, typer.Option(help="Pixels that a folder's images are resized to; by default as the source's.")
    ] = None,
    grey: Annotated[
        bool, typer.Option("--grey", help="Read a folder's images in grey, as is done by itself for a grey source.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Every random choice follows from it.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for predictions.csv, drift.json and drift.html.")] = Path(
        "adaptation"
    ),
) -> None:
    """Answer an unlabelled stream with a model that adapts to it, and show what drifted."""
    from tutelage.adapting import adapt_stream, write_adaptation
    from tutelage.reporting.saved_models import parse_options

    found = adapt_stream(
        model,
        stream,
        source=source,
        source_options=parse_options(source_option or []),
        stream_options=parse_options(stream_option or []),
        way=way,  # type: ignore[arg-type]  # checked there
        batch_size=batch_size,
        learning_rate=learning_rate,
        momentum=momentum,
        warm_up=warm_up,
        flip=flip,
        size=None if size is None else (size, size),
        mode="L" if grey else None,
        seed=seed,
    )
    page = write_adaptation(out, found, title=f"{model.name} on {stream}")
    for name, value in found.summary().items():
        print(f"{name}: {value:.4g}")
    print(f"Predictions: {out / 'predictions.csv'}\nPage: {page}")
