"""An image-text model of `transformers` that answers yes/no questions about pictures, as probabilities.

Source: "Multi-aspect Knowledge Distillation with Large Language Model", arXiv 2501.13341, section 3.2.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from tutelage._checks import check_at_least
from tutelage.features.aspects import yes_no_probability


class TransformersAnswerer:
    """Asks any image-text model of `transformers` about pictures: the probability that it begins its answer with "yes".

    For every picture and question the model gets one user turn, the picture and then the question, in the form of its
    own chat template (without one: the picture's token, a line break and the question). It is called once, nothing is
    sampled, and the two answers' tokens are compared at the first place of its reply (`yes_no_probability`).

    The picture comes first in every prompt, so what the model computes of it is kept and shared by all of its questions
    (`share_picture`). Where prompts turn out not to be made of a picture and a text after it, every question is asked
    with the picture. A model in which a picture's tokens attend to the text after them (PaliGemma) needs
    `share_picture=False`.

    Args:
        model: The model, such as an `AutoModelForImageTextToText`; it is put in evaluation mode.
        processor: Its processor.
        prompt: What is said to it; `{question}` stands for the question.
        yes: How "yes" may be spelled at the start of a reply; probabilities of several spellings are added.
        no: The same for "no".
        batch_size: Questions a call.
        share_picture: Compute the picture once for all questions.

    Raises:
        ValueError: A spelling that is not a single token of the model, or one that stands for both answers.

    >>> TransformersAnswerer.from_pretrained("OpenGVLab/InternVL3-8B-hf", dtype="bfloat16")  # doctest: +SKIP
    """

    def __init__(
        self,
        model: nn.Module,
        processor: Any,
        *,
        prompt: str = "{question}",
        yes: Sequence[str] = ("Yes",),
        no: Sequence[str] = ("No",),
        batch_size: int = 64,
        share_picture: bool = True,
    ) -> None:
        check_at_least(batch_size, "batch_size", 1)
        if "{question}" not in prompt:
            raise ValueError(f"Expected argument `prompt` to hold `{{question}}`, but got {prompt!r}.")
        self.model: Any = model.eval()
        self.processor = processor
        self.tokenizer: Any = getattr(processor, "tokenizer", processor)
        self.prompt = prompt
        self.batch_size = batch_size
        self.share_picture = share_picture
        self.yes_ids = single_token_ids(self.tokenizer, yes)
        self.no_ids = single_token_ids(self.tokenizer, no)
        if set(self.yes_ids) & set(self.no_ids):
            raise ValueError(f"Expected `yes` and `no` to be different tokens, but {yes} and {no} share one.")

    @classmethod
    def from_pretrained(cls, name: str, *, device: str | torch.device = "cpu", **options: Any) -> TransformersAnswerer:
        """Load a model and its processor by a folder or Hugging Face name; only safetensors are read.

        Args:
            name: The folder or name.
            device: Where the model answers.
            options: For this class (`prompt`, `yes`, …); all others for the model's `from_pretrained` (`dtype`, …).
        """
        from transformers import AutoModelForImageTextToText, AutoProcessor

        own = {key: options.pop(key) for key in _OPTIONS if key in options}
        models: Any = AutoModelForImageTextToText
        processors: Any = AutoProcessor
        model = models.from_pretrained(name, use_safetensors=True, trust_remote_code=False, **options)
        return cls(model.to(device), processors.from_pretrained(name, trust_remote_code=False), **own)

    @torch.no_grad()
    def answer(self, images: Any, questions: Sequence[str]) -> Float[Tensor, "batch questions"]:
        """Probabilities of "yes".

        Args:
            images: Pictures: a tensor `[batch, channels, height, width]` in [0, 1] with one or three channels, or a
                list of PIL images or paths.
            questions: The questions.

        Returns:
            `[batch, questions]` float32, on the CPU.

        Raises:
            ValueError: No question, or images of another form.
        """
        check_at_least(len(questions), "questions", 1)
        prompts = [self._text(question) for question in questions]
        rows = [self._ask(picture, prompts) for picture in as_pictures(images)]
        return torch.stack(rows) if rows else torch.empty(0, len(questions))

    @torch.no_grad()
    def reply(self, conversation: Sequence[dict[str, str]], *, max_new_tokens: int = 8192) -> str:
        """What the model says to a conversation without pictures, by its likeliest tokens (for `generate_questions`).

        Args:
            conversation: `{"role": …, "content": …}` turns.
            max_new_tokens: The most tokens of the reply.
        """
        turns = [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in conversation]
        text = self.processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        inputs = self.tokenizer(text, add_special_tokens=False, return_tensors="pt").to(self.model.device)
        said = self.model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=max_new_tokens,
            do_sample=False,
        )
        answer: str = self.tokenizer.decode(said[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return answer.strip()

    def _ask(self, picture: Any, prompts: list[str]) -> Tensor:
        """The answers to all questions about one picture, `[questions]`."""
        if self.share_picture:
            first = self._inputs(picture, prompts[:1])
            tails = self._tails(prompts, first["input_ids"][0].tolist())
            if tails is not None:
                return self._ask_about_seen(first, tails)
        parts = [self._inputs(picture, prompts[at : at + self.batch_size]) for at in self._starts(prompts)]
        return torch.cat([self._probability(self.model(**part, logits_to_keep=1).logits[:, -1]) for part in parts])

    def _ask_about_seen(self, first: dict[str, Tensor], tails: list[list[int]]) -> Tensor:
        """Read the picture once, then all questions after copies of what was computed of it."""
        length = first["input_ids"].shape[1] - len(tails[0])
        picture = {name: value[:, :length] if name in _PER_TOKEN else value for name, value in first.items()}
        seen = self.model(**picture, use_cache=True, logits_to_keep=1).past_key_values
        device = first["input_ids"].device
        answers = []
        for at in self._starts(tails):
            part = tails[at : at + self.batch_size]
            lengths = torch.tensor([len(tail) for tail in part], device=device)
            ids = torch.zeros(len(part), int(lengths.max()), dtype=torch.int64, device=device)
            for row, tail in enumerate(part):  # on the right, where causal attention never looks back from
                ids[row, : len(tail)] = torch.tensor(tail)
            cache = copy.deepcopy(seen)
            cache.batch_repeat_interleave(len(part))
            mask = torch.ones(len(part), length + ids.shape[1], dtype=torch.int64, device=device)
            logits = self.model(input_ids=ids, attention_mask=mask, past_key_values=cache).logits
            answers.append(self._probability(logits[torch.arange(len(part), device=device), lengths - 1]))
        return torch.cat(answers)

    def _tails(self, prompts: list[str], first: list[int]) -> list[list[int]] | None:
        """The tokens of every prompt after its picture; None where the first prompt does not end in its own."""
        token = self._picture_token()
        if token is None or any(prompt.count(token) != 1 for prompt in prompts):
            return None
        place = self.tokenizer.convert_tokens_to_ids(token)
        tails = []
        for prompt in prompts:
            # Beside the token that it stands beside in the prompt, since tokenizers treat the start of a text apart.
            ids = self.tokenizer.encode(token + prompt.partition(token)[2], add_special_tokens=False)
            if ids[:1] != [place] or len(ids) == 1:
                return None
            tails.append(ids[1:])
        return tails if first[-len(tails[0]) :] == tails[0] and len(first) > len(tails[0]) else None

    def _inputs(self, picture: Any, prompts: list[str]) -> dict[str, Tensor]:
        made = self.processor(
            images=[[picture]] * len(prompts),
            text=prompts,
            return_tensors="pt",
            padding=True,
            padding_side="left",  # so that every reply begins at the last place
        )
        dtype, device = self.model.dtype, self.model.device
        return {
            name: value.to(device, dtype) if value.is_floating_point() else value.to(device)
            for name, value in made.items()
            if isinstance(value, Tensor)
        }

    def _text(self, question: str) -> str:
        said = self.prompt.replace("{question}", question)
        if getattr(self.processor, "chat_template", None) is None:
            return f"{self._picture_token() or ''}\n{said}"
        turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": said}]}
        text: str = self.processor.apply_chat_template([turn], add_generation_prompt=True, tokenize=False)
        return text

    def _picture_token(self) -> str | None:
        token = getattr(self.processor, "image_token", None)
        return token if token is None or isinstance(token, str) else token.content

    def _probability(self, logits: Tensor) -> Tensor:
        return yes_no_probability(logits, self.yes_ids, self.no_ids).float().cpu()

    def _starts(self, items: Sequence[Any]) -> range:
        return range(0, len(items), self.batch_size)


_OPTIONS = ("prompt", "yes", "no", "batch_size", "share_picture")
_PER_TOKEN = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")


def single_token_ids(tokenizer: Any, spellings: Sequence[str]) -> list[int]:
    """The token of every spelling of an answer.

    Args:
        tokenizer: A tokenizer of `transformers`.
        spellings: Texts such as `"Yes"` and `" yes"`.

    Returns:
        Their ids, each once.

    Raises:
        ValueError: No spelling, or one that is several tokens, or none that the tokenizer knows.
    """
    ids: dict[int, None] = {}
    for spelling in spellings:
        found = tokenizer.encode(spelling, add_special_tokens=False)
        if len(found) != 1 or found[0] == tokenizer.unk_token_id:
            raise ValueError(
                f"Expected the answer {spelling!r} to be a single token of the model, but it is {found}: the "
                "probability of an answer is read from its first token."
            )
        ids[found[0]] = None
    if not ids:
        raise ValueError("Expected at least one spelling of every answer, but got none.")
    return list(ids)


def as_pictures(images: Any) -> list[Any]:
    """PIL images in colour from a tensor `[batch, channels, height, width]` in [0, 1], from PIL images, or from paths.

    Raises:
        ValueError: A tensor of another shape or range.

    >>> as_pictures(torch.ones(1, 1, 2, 3))[0].size
    (3, 2)
    """
    from PIL import Image

    if not isinstance(images, Tensor):
        listed: Iterable[Any] = images
        return [(one if isinstance(one, Image.Image) else Image.open(one)).convert("RGB") for one in listed]
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not images.is_floating_point():
        raise ValueError(
            "Expected argument `images` to have shape [batch, 1 or 3, height, width] and to be real, "
            f"but got {images.dtype} of shape {tuple(images.shape)}."
        )
    if images.numel() and not (images.min() >= 0 and images.max() <= 1):
        low, high = images.aminmax()
        raise ValueError(f"Expected argument `images` to be in [0, 1], but got values in [{low:.4g}, {high:.4g}].")
    pixels = (images.detach().float() * 255).round().to(torch.uint8).expand(-1, 3, -1, -1).movedim(1, 3).cpu().numpy()
    return [Image.fromarray(np.ascontiguousarray(picture)) for picture in pixels]
