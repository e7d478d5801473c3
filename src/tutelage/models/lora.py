"""Low-rank adapters: a large language model learns with few weights of its own (through PEFT)."""

from __future__ import annotations

from typing import Any, cast

from torch import nn

from tutelage._checks import check_at_least, check_positive


def add_lora(
    model: nn.Module,
    *,
    rank: int = 8,
    alpha: float = 16.0,
    dropout: float = 0.0,
    target_modules: list[str] | str | None = None,
) -> nn.Module:
    """Freeze a causal language model of `transformers` and put adapters that learn beside its layers.

    Args:
        model: Changed in place: its own weights stop learning.
        rank: Rank of every adapter.
        alpha: Adapters count alpha / rank times.
        dropout: Dropout before an adapter.
        target_modules: Names of the layers that get one, or `"all-linear"`; by default those PEFT names for the model.

    Returns:
        A `peft.PeftModel` around the model; it starts with the model's own outputs. `merge_lora` gives a plain model.

    Raises:
        ImportError: PEFT is not installed.
        ValueError: A number out of its range, or PEFT knows no layers for this model.
    """
    check_at_least(rank, "rank", 1)
    check_positive(alpha, "alpha")
    try:
        import peft
    except ImportError as error:
        raise ImportError("Adapters need the package `peft`: pip install 'tutelage[language]'") from error
    kind = getattr(getattr(model, "config", None), "model_type", "")
    settings = peft.LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]
        lora_dropout=dropout,
        target_modules=target_modules,
        task_type="CAUSAL_LM",
        fan_in_fan_out=kind == "gpt2",
    )
    made: Any = peft.get_peft_model(model, settings)  # type: ignore[arg-type]
    return cast(nn.Module, made)


def merge_lora(model: nn.Module) -> nn.Module:
    """The model with its adapters added to its weights, as a plain model; any other model as it is."""
    merge = getattr(model, "merge_and_unload", None)
    if merge is None or not hasattr(model, "peft_config"):
        return model
    return cast(nn.Module, merge())
