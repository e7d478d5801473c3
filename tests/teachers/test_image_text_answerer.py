"""Real image-text models of `transformers`, tiny and with random weights, asked about pictures."""

import pytest
import torch
from PIL import Image

from tests.teachers.tiny_image_text import tiny_image_text_model
from tutelage.teachers import TransformersAnswerer
from tutelage.teachers.image_text_answerer import as_pictures, single_token_ids

QUESTIONS = ["Is it a digit?", "Is it upper case, or is it not?", "Bold?"]


@pytest.fixture(scope="module", params=["llava", "idefics3"])
def asked(request):
    return tiny_image_text_model(request.param)


@pytest.fixture(scope="module")
def llava():
    return tiny_image_text_model("llava")


PICTURES = torch.rand(2, 3, 20, 24, generator=torch.Generator().manual_seed(0))


def one_by_one(model, processor, question, picture, template=True):
    """The slow way: one prompt, one call of `generate`, a softmax over two logits of its first token."""
    if template:
        turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}
        text = processor.apply_chat_template([turn], add_generation_prompt=True)
    else:
        text = f"<image>\n{question}"
    inputs = processor(images=[picture], text=[text], return_tensors="pt")
    said = model.generate(
        **inputs, max_new_tokens=1, do_sample=False, output_logits=True, return_dict_in_generate=True
    ).logits[0][0]
    ids = [processor.tokenizer.convert_tokens_to_ids(word) for word in ("Yes", "No")]
    return said[ids].softmax(dim=0)[0].item()


def test_answers_are_those_of_the_first_generated_token(asked):
    model, processor = asked
    answers = TransformersAnswerer(model, processor).answer(PICTURES, QUESTIONS)
    expected = [
        [one_by_one(model, processor, question, picture) for question in QUESTIONS] for picture in as_pictures(PICTURES)
    ]
    torch.testing.assert_close(answers, torch.tensor(expected), rtol=0, atol=1e-5)
    assert answers.std(dim=0).max() > 1e-4  # the picture matters
    assert answers.std(dim=1).max() > 1e-3  # the question matters


def test_a_picture_that_is_computed_once_gives_the_same_answers(asked):
    model, processor = asked
    seen = []
    vision = model.get_submodule("model.vision_tower" if hasattr(model.model, "vision_tower") else "model.vision_model")
    handle = vision.register_forward_hook(lambda *call: seen.append(1))
    shared = TransformersAnswerer(model, processor).answer(PICTURES, QUESTIONS)
    calls_shared = len(seen)
    each = TransformersAnswerer(model, processor, share_picture=False, batch_size=1).answer(PICTURES, QUESTIONS)
    handle.remove()
    assert calls_shared == len(PICTURES)
    assert len(seen) - calls_shared == len(PICTURES) * len(QUESTIONS)
    torch.testing.assert_close(shared, each, rtol=0, atol=1e-5)


@pytest.mark.parametrize("share", [True, False])
def test_the_number_of_questions_a_call_does_not_matter(llava, share):
    one, several = (
        TransformersAnswerer(*llava, batch_size=size, share_picture=share).answer(PICTURES, QUESTIONS)
        for size in (1, 2)
    )
    torch.testing.assert_close(one, several, rtol=0, atol=1e-5)


def test_without_a_chat_template_the_prompt_is_picture_and_question(llava):
    model, processor = llava
    processor.chat_template, template = None, processor.chat_template
    try:
        answers = TransformersAnswerer(model, processor).answer(PICTURES, QUESTIONS)
        first = one_by_one(model, processor, QUESTIONS[0], as_pictures(PICTURES)[0], template=False)
    finally:
        processor.chat_template = template
    assert answers[0, 0].item() == pytest.approx(first, abs=1e-5)


def test_prompts_of_another_form_are_asked_one_by_one(llava):
    """A prompt that names the picture's token twice can't be cut after its picture."""
    answerer = TransformersAnswerer(*llava, prompt="Look: {question}")
    tails = answerer._tails([answerer._text(question) for question in QUESTIONS], list(range(50)))
    assert tails is None
    wanted = one_by_one(*llava, f"Look: {QUESTIONS[1]}", as_pictures(PICTURES)[0])
    answerer._tails = lambda prompts, first: None
    assert answerer.answer(PICTURES[:1], QUESTIONS)[0, 1].item() == pytest.approx(wanted, abs=1e-5)


def test_spellings_are_added(llava):
    model, processor = llava
    plain = TransformersAnswerer(model, processor)
    many = TransformersAnswerer(model, processor, yes=("Yes", "yes"), no=("No", "no"))
    assert len(many.yes_ids) == 2
    assert not torch.equal(plain.answer(PICTURES, QUESTIONS), many.answer(PICTURES, QUESTIONS))


def test_half_precision_and_the_kinds_of_pictures(llava, tmp_path):
    model, processor = llava
    answerer = TransformersAnswerer(model, processor)
    answers = answerer.answer(PICTURES, QUESTIONS)
    pictures = as_pictures(PICTURES)
    torch.testing.assert_close(answerer.answer(pictures, QUESTIONS), answers)
    pictures[0].save(tmp_path / "picture.png")
    torch.testing.assert_close(answerer.answer([tmp_path / "picture.png"], QUESTIONS), answers[:1])
    half = TransformersAnswerer(tiny_image_text_model("llava")[0].bfloat16(), processor).answer(PICTURES, QUESTIONS)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, answers, rtol=0, atol=0.1)


def test_a_saved_model_is_loaded_without_a_network(llava, tmp_path):
    model, processor = llava
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = TransformersAnswerer.from_pretrained(str(tmp_path), batch_size=2)
    assert loaded.batch_size == 2
    answers = TransformersAnswerer(model, processor).answer(PICTURES, QUESTIONS)
    torch.testing.assert_close(loaded.answer(PICTURES, QUESTIONS), answers)


def test_a_conversation_without_pictures_is_replied_to(llava):
    answerer = TransformersAnswerer(*llava)
    turns = [{"role": "user", "content": "Write questions."}, {"role": "assistant", "content": "Is it red?"}]
    said = answerer.reply([*turns, {"role": "user", "content": "Choose."}], max_new_tokens=5)
    assert isinstance(said, str)
    assert "Write" not in said
    longer = answerer.reply([*turns, {"role": "user", "content": "Choose."}], max_new_tokens=8)
    assert longer.startswith(said[:-1])  # a broken character at the end may be completed
    assert len(longer) > len(said)


def test_answers_must_be_single_tokens(llava):
    model, processor = llava
    with pytest.raises(ValueError, match="'Certainly' to be a single token"):
        TransformersAnswerer(model, processor, yes=("Yes", "Certainly"))
    with pytest.raises(ValueError, match="share one"):
        TransformersAnswerer(model, processor, yes=("Yes",), no=("Yes",))
    with pytest.raises(ValueError, match="at least one spelling"):
        single_token_ids(processor.tokenizer, ())
    with pytest.raises(ValueError, match=r"\{question\}"):
        TransformersAnswerer(model, processor, prompt="Well?")


def test_bad_pictures_and_questions_are_refused(llava):
    answerer = TransformersAnswerer(*llava)
    with pytest.raises(ValueError, match="`questions`"):
        answerer.answer(PICTURES, [])
    for images in (PICTURES[0], PICTURES[:, :2], (255 * PICTURES).byte()):
        with pytest.raises(ValueError, match=r"shape \[batch, 1 or 3, height, width\]"):
            answerer.answer(images, QUESTIONS)
    with pytest.raises(ValueError, match=r"in \[0, 1\], but got values in"):
        answerer.answer(2 * PICTURES, QUESTIONS)
    assert answerer.answer([], QUESTIONS).shape == (0, 3)


def test_grey_tensors_and_pictures_become_coloured():
    grey = as_pictures(torch.tensor([[[[0.0, 0.5], [1.0, 0.2]]]]))[0]
    assert grey.mode == "RGB"
    assert grey.getpixel((1, 0)) == (128, 128, 128)
    assert as_pictures([Image.new("L", (2, 2))])[0].mode == "RGB"
