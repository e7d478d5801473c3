"""Language models over `transformers` configurations: causal, and encoders that classify sequences."""

from __future__ import annotations

from typing import Literal

from torch import nn

from tutelage._checks import check_at_least, check_in_range, check_option
from tutelage.models.pretrained import new_model
from tutelage.models.specification import described
from tutelage.models.vision import check_heads


@described
def causal_lm(
    vocab_size: int,
    *,
    architecture: Literal["gpt2", "llama"] = "gpt2",
    hidden_size: int = 64,
    num_layers: int = 2,
    num_heads: int = 2,
    intermediate_size: int | None = None,
    max_length: int = 128,
    dropout: float = 0.0,
    tie_word_embeddings: bool = True,
    pad_token_id: int | None = None,
    bos_token_id: int | None = None,
    eos_token_id: int | None = None,
) -> nn.Module:
    """A causal language model: GPT-2 (learned positions, layer norm) or Llama (rotary positions, RMS norm, SwiGLU).

    Args:
        vocab_size: Number of tokens.
        architecture: `"gpt2"` or `"llama"`.
        hidden_size: Width of a token.
        num_layers: Number of blocks.
        num_heads: Attention heads; they divide the width.
        intermediate_size: Width inside the feed-forward layers; by default four times the token's.
        max_length: Longest sequence, in tokens.
        dropout: Probability of dropping an activation (Llama: an attention weight).
        tie_word_embeddings: The input embedding is also the output layer.
        pad_token_id: Padding token, for `generate`.
        bos_token_id: First token, for `generate`.
        eos_token_id: Token that ends `generate`.

    Returns:
        A `GPT2LMHeadModel` or `LlamaForCausalLM`; it maps tokens `[batch, time]` to an output with `logits`
        `[batch, time, vocab_size]`. Its key–value cache is off in training and on in `generate`.

    Raises:
        ValueError: A size is not positive, the heads do not divide the width, or a token is not in the vocabulary.

    >>> import torch
    >>> causal_lm(11)(torch.zeros(2, 5, dtype=torch.int64)).logits.shape
    torch.Size([2, 5, 11])
    """
    check_option(architecture, "architecture", ("gpt2", "llama"))
    _check_language_sizes(vocab_size, hidden_size, num_layers, num_heads, max_length, dropout)
    tokens = {"pad_token_id": pad_token_id, "bos_token_id": bos_token_id, "eos_token_id": eos_token_id}
    for name, token in tokens.items():
        if token is not None:
            _check_token(token, name, vocab_size)
    intermediate_size = intermediate_size or 4 * hidden_size
    if architecture == "gpt2":
        model = new_model(
            "GPT2LMHeadModel",
            vocab_size=vocab_size,
            n_embd=hidden_size,
            n_layer=num_layers,
            n_head=num_heads,
            n_inner=intermediate_size,
            n_positions=max_length,
            resid_pdrop=dropout,
            embd_pdrop=dropout,
            attn_pdrop=dropout,
            tie_word_embeddings=tie_word_embeddings,
            use_cache=False,
            **tokens,
        )
    else:
        model = new_model(
            "LlamaForCausalLM",
            vocab_size=vocab_size,
            hidden_size=hidden_size,
            num_hidden_layers=num_layers,
            num_attention_heads=num_heads,
            intermediate_size=intermediate_size,
            max_position_embeddings=max_length,
            attention_dropout=dropout,
            tie_word_embeddings=tie_word_embeddings,
            use_cache=False,
            **tokens,
        )
    model.generation_config.use_cache = True  # type: ignore[union-attr]
    return model


@described
def encoder_lm(
    vocab_size: int,
    num_classes: int,
    *,
    hidden_size: int = 64,
    num_layers: int = 2,
    num_heads: int = 2,
    intermediate_size: int | None = None,
    max_length: int = 128,
    dropout: float = 0.1,
    pad_token_id: int = 0,
) -> nn.Module:
    """A bidirectional encoder that classifies sequences (Devlin et al. 2019, "BERT").

    Args:
        vocab_size: Number of tokens.
        num_classes: Number of logits.
        hidden_size: Width of a token.
        num_layers: Number of blocks.
        num_heads: Attention heads; they divide the width.
        intermediate_size: Width inside the feed-forward layers; by default four times the token's.
        max_length: Longest sequence, in tokens.
        dropout: Probability of dropping an activation, in attention and outside.
        pad_token_id: Padding token; its embedding is zero and stays so. Pass `attention_mask` to leave padding out.

    Returns:
        A `BertForSequenceClassification`; it maps `input_ids` (and `attention_mask`) `[batch, time]` to an output
        with `logits` `[batch, num_classes]`, read from the first token.

    Raises:
        ValueError: A size is not positive, the heads do not divide the width, or the padding is no token.

    >>> import torch
    >>> encoder_lm(11, 3)(torch.ones(2, 5, dtype=torch.int64)).logits.shape
    torch.Size([2, 3])
    """
    _check_language_sizes(vocab_size, hidden_size, num_layers, num_heads, max_length, dropout)
    check_at_least(num_classes, "num_classes", 1)
    _check_token(pad_token_id, "pad_token_id", vocab_size)
    return new_model(
        "BertForSequenceClassification",
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        intermediate_size=intermediate_size or 4 * hidden_size,
        max_position_embeddings=max_length,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        pad_token_id=pad_token_id,
        num_labels=num_classes,
    )


def _check_language_sizes(
    vocab_size: int, hidden_size: int, num_layers: int, num_heads: int, max_length: int, dropout: float
) -> None:
    check_at_least(vocab_size, "vocab_size", 1)
    check_heads(hidden_size, num_heads)
    check_at_least(num_layers, "num_layers", 1)
    check_at_least(max_length, "max_length", 1)
    check_in_range(dropout, "dropout", 0.0, 1.0)


def _check_token(token: int, name: str, vocab_size: int) -> None:
    if not 0 <= token < vocab_size:
        raise ValueError(f"Expected argument `{name}` to be a token in [0, {vocab_size}), but got {token}.")
