import json

import numpy as np
import pytest
import torch

from tutelage.data import ArraySamples
from tutelage.teachers import (
    AnsweredSamples,
    AspectAnswerer,
    AttributeOracle,
    CachedAnswers,
    TransformersAnswerer,
    answered_data,
)

QUESTIONS = ["Is it red?", "Can it fly?", "Has it fur?"]


def cached(samples=5):
    answers = torch.rand(samples, 3, generator=torch.Generator().manual_seed(0))
    answers[2, 1] = float("nan")
    return CachedAnswers({10 * sample: row for sample, row in enumerate(answers)}, QUESTIONS), answers


# ---- The oracle ------------------------------------------------------------------------------------------------------


def test_an_oracle_without_faults_says_the_truth():
    truth = torch.tensor([[1, 0, 1], [0, 0, 1]])
    answers = AttributeOracle(noise=0.0, flip_rate=0.0).answer(truth, QUESTIONS)
    torch.testing.assert_close(answers, torch.where(truth == 1, 0.880797, 0.119203))
    assert answers.dtype == torch.float32


@pytest.mark.parametrize("flip_rate", [0.1, 0.5, 1.0])
def test_faults_have_the_stated_size(flip_rate):
    truth = torch.rand(4000, 3, generator=torch.Generator().manual_seed(1)) < 0.3
    flipped = AttributeOracle(noise=0.0, flip_rate=flip_rate).answer(truth, QUESTIONS)
    wrong = ((flipped > 0.5) != truth).double().mean().item()
    assert wrong == pytest.approx(flip_rate, abs=0.02)
    noisy = AttributeOracle(noise=1.5, flip_rate=0.0, certainty=2.0).answer(truth, QUESTIONS).double().logit()
    noise = noisy - torch.where(truth, 2.0, -2.0)
    assert noise.mean().item() == pytest.approx(0, abs=0.06)
    assert noise.std().item() == pytest.approx(1.5, rel=0.03)


def test_draws_come_from_the_seed_and_go_on():
    truth = torch.zeros(20, 3, dtype=torch.bool)
    first, again, other = (AttributeOracle(seed=seed) for seed in (0, 0, 1))
    answers = first.answer(truth, QUESTIONS)
    assert torch.equal(answers, again.answer(truth, QUESTIONS))
    assert not torch.equal(answers, first.answer(truth, QUESTIONS))
    assert not torch.equal(answers, other.answer(truth, QUESTIONS))


def test_bad_oracles_and_attributes_are_refused():
    for arguments, name in (
        ({"noise": -1.0}, "noise"),
        ({"flip_rate": 1.1}, "flip_rate"),
        ({"certainty": 0.0}, "cert"),
    ):
        with pytest.raises(ValueError, match=name):
            AttributeOracle(**arguments)
    with pytest.raises(ValueError, match="3 attributes, one a question, but got 2"):
        AttributeOracle().answer(torch.zeros(4, 2), QUESTIONS)
    with pytest.raises(ValueError, match="0 or 1"):
        AttributeOracle().answer(torch.full((4, 3), 0.5), QUESTIONS)


# ---- Kept answers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".json", ".npz"])
def test_round_trip_is_exact(tmp_path, suffix):
    answers, table = cached()
    path = tmp_path / f"answers{suffix}"
    answers.save(path)
    loaded = CachedAnswers.load(path)
    assert loaded.questions == answers.questions
    said = loaded.answer(torch.tensor([40, 0, 10, 20, 30]), QUESTIONS)
    torch.testing.assert_close(said, table[[4, 0, 1, 2, 3]], rtol=0, atol=1e-7, equal_nan=True)
    assert torch.equal(said.isnan(), table[[4, 0, 1, 2, 3]].isnan())


def test_columns_follow_the_questions():
    answers, table = cached()
    torch.testing.assert_close(answers.answer(["30"], ["Has it fur?", "Is it red?"]), table[[3]][:, [2, 0]])


def test_missing_samples_and_questions_are_named():
    answers, _ = cached()
    with pytest.raises(KeyError, match="no answers for sample '7'"):
        answers.answer([0, 7, 8], QUESTIONS)
    with pytest.raises(KeyError, match="no answers to the question 'Is it wet"):
        answers.answer([0], ["Is it wet?"])


def test_a_released_file_without_questions(tmp_path):
    path = tmp_path / "pets.json"
    path.write_text(json.dumps({"pug_1": [0.25, 0.5, 1.0], "cat_7": [0.0, 0.125, None]}))
    with pytest.raises(ValueError, match="Expected argument `questions`"):
        CachedAnswers.load(path)
    loaded = CachedAnswers.load(path, QUESTIONS)
    assert loaded.answer(["pug_1"], QUESTIONS).tolist() == [[0.25, 0.5, 1.0]]
    assert loaded.answer(["cat_7"], QUESTIONS).isnan().tolist() == [[False, False, True]]


@pytest.mark.parametrize(
    ("answers", "questions", "message"),
    [
        ({}, QUESTIONS, "at least one sample"),
        ({"a": [0.5]}, QUESTIONS, "3 answers a sample, one a question, but sample 'a' has 1"),
        ({"a": [0.5]}, ["Is it red?", "is it red"], "some repeat"),
        ({"a": [1.5]}, ["Is it red?"], r"in \[0, 1\], but got 1.5"),
        ({1: [0.5], "1": [0.5]}, ["Is it red?"], "repeat as texts"),
    ],
)
def test_bad_answers_are_refused(answers, questions, message):
    with pytest.raises(ValueError, match=message):
        CachedAnswers(answers, questions)


def test_damaged_files_are_refused(tmp_path):
    for name, content in (("a.json", "[1, 2]"), ("b.json", '{"x": 3}'), ("c.json", "{")):
        (tmp_path / name).write_text(content)
        with pytest.raises(ValueError, match="Expected"):
            CachedAnswers.load(tmp_path / name, QUESTIONS)
    np.savez(tmp_path / "d.npz", answers=np.zeros((1, 1)))
    with pytest.raises(ValueError, match="it lacks ids, questions"):
        CachedAnswers.load(tmp_path / "d.npz")
    np.savez(tmp_path / "e.npz", answers=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="never unpickled"):
        CachedAnswers.load(tmp_path / "e.npz")
    for act in (cached()[0].save, CachedAnswers.load):
        with pytest.raises(ValueError, match=r"\.json or \.npz"):
            act(tmp_path / "answers.pt")


# ---- Answers that travel with samples --------------------------------------------------------------------------------


def test_every_answerer_is_one():
    assert isinstance(AttributeOracle(), AspectAnswerer)
    assert isinstance(cached()[0], AspectAnswerer)
    assert issubclass(TransformersAnswerer, AspectAnswerer)


def test_answers_stay_with_their_samples():
    index = torch.tensor([7, 3, 9, 5])
    samples = ArraySamples(torch.arange(4.0)[:, None], torch.arange(4), index=index)
    truth = torch.tensor([[1, 0, 1], [0, 1, 1], [0, 0, 0], [1, 1, 0]])
    oracle = AttributeOracle(noise=0.0, flip_rate=0.0)
    answers = CachedAnswers.collect(oracle, samples, QUESTIONS, look=lambda batch: truth[batch.target], batch_size=3)
    assert len(answers) == 4
    told = AnsweredSamples(samples, answers)
    batch = told.batch(torch.tensor([2, 0, 3]))
    assert torch.equal(batch.extras["aspects"] > 0.5, truth[[2, 0, 3]] == 1)
    assert torch.equal(batch.index, index[[2, 0, 3]])
    some = AnsweredSamples(samples, answers, QUESTIONS[1:])
    assert some.batch(torch.tensor([1])).extras["aspects"].shape == (1, 2)
    assert len({told.fingerprint(), some.fingerprint(), samples.fingerprint()}) == 3
    assert told.fingerprint() == AnsweredSamples(samples, answers).fingerprint()


def test_data_with_answers_from_a_file(tmp_path):
    path = tmp_path / "answers.json"
    options = {"alphabet": "01", "train_per_class": 2, "validation_per_class": 1, "test_per_class": 1}
    CachedAnswers({index: [0.1 * index] for index in range(4)}, ["Is it red?"]).save(path)
    data = answered_data({"name": "glyphs", "options": options}, path)
    assert data.train.batch(torch.tensor([3])).extras["aspects"].item() == pytest.approx(0.3)
    assert "aspects" not in data.test.batch(torch.tensor([0])).extras
    with pytest.raises(KeyError, match="Is it wet"):
        answered_data({"name": "glyphs", "options": options}, path, ["Is it wet?"])
