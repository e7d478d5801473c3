import copy

import pytest
import torch

from tutelage.assessment import exact_sequence_kl
from tutelage.batch import Batch
from tutelage.models import causal_lm
from tutelage.objectives import TokenDivergence
from tutelage.training import Distillation, Monitor, OracleDistillationExperiment, PowerLawMonitor, TrainingSettings

PROMPTS = torch.cartesian_prod(torch.arange(4), torch.arange(4), torch.arange(4))
TRAIN, EVAL = PROMPTS[:32], PROMPTS[32:48]
SETTINGS = TrainingSettings(max_steps=12, batch_size=8, learning_rate=1e-2)


def model(seed, spread=4.0, vocabulary=5):
    torch.manual_seed(seed)
    made = causal_lm(vocabulary, hidden_size=8, num_layers=1, num_heads=2, max_length=8, dropout=0.0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(spread)
    return made


def experiment(oracle=None, teacher=None, student=None, **options):
    options = {"max_new_tokens": 3, "settings": SETTINGS, "responses_per_prompt": 4, "evaluations": 6, **options}
    return OracleDistillationExperiment(
        oracle or model(0), teacher or model(1), student or model(2), TRAIN, EVAL, **options
    )


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jsd"])
def test_a_student_that_is_its_teacher_learns_nothing(kind):
    teacher = model(1)
    student = copy.deepcopy(teacher)
    made = experiment(teacher=teacher, student=student, divergence=kind)
    found = made.distances()
    assert found["proxy"][0] == pytest.approx(0, abs=1e-5)
    exact = exact_sequence_kl(model(0), teacher, EVAL, 3).mean().item()
    mean, error = found["golden"]
    assert abs(mean - exact) < 4 * error  # golden is the distance of the teacher from the oracle
    loss = sum(made.method.step(made._train.batch(torch.arange(8))).values())
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-5)
    assert all(float(value.grad.abs().max()) < 1e-5 for value in student.parameters() if value.grad is not None)


@pytest.mark.parametrize("source", ["offline", "online_teacher", "online_student", "mixture"])
def test_every_source_teaches_and_repeats_with_its_seed(source):
    first, second = (experiment(source=source).run() for _ in range(2))
    assert first == second
    assert first.steps[0] == 0
    assert first.steps[-1] == 12
    assert first.proxy[-1] < first.proxy[0]
    other = experiment(source=source, settings=SETTINGS.model_copy(update={"seed": 1})).run()
    assert other.proxy != first.proxy


def test_distances_are_taken_along_the_same_responses_all_along():
    made = experiment()
    assert made.distances() == made.distances()


def test_a_recorded_teacher_teaches_what_a_live_one_does():
    offline = experiment()
    batch = offline._train.batch(torch.arange(8))
    live = Distillation(model(1), offline.student, TokenDivergence(token_average="sequence"))
    plain = Batch(batch.inputs, batch.target, batch.index)
    for one, other in zip(offline.method.step(batch).values(), live.step(plain).values(), strict=True):
        torch.testing.assert_close(one, other)


def test_the_loss_is_the_mean_over_tokens_then_responses_by_a_slow_loop():
    made = experiment(end_token=4)
    rows = torch.arange(8)
    told = made.source.responses(rows)
    total = 0.0
    teacher, student = model(1).eval(), made.student.eval()
    for prompt, response, mask in zip(*told, strict=True):
        length = int(mask.sum())
        text = torch.cat([prompt, response[:length]]).unsqueeze(0)
        tokens = 0.0
        for place in range(length):
            seen = text[:, : len(prompt) + place]
            p, q = (one(input_ids=seen).logits[0, -1].log_softmax(-1) for one in (teacher, student))
            tokens += float((p.exp() * (p - q)).sum())
        total += tokens / length / len(rows)
    assert float(sum(made.method.step(made._train.batch(rows)).values()).detach()) == pytest.approx(total, rel=1e-4)


def test_monitors_see_every_evaluation_and_can_stop_the_run():
    class StopAt(Monitor):
        def __init__(self):
            self.seen = []

        def on_start(self, trainer):
            self.trainer = trainer

        def on_record(self, record):
            if "proxy" in record:
                self.seen.append(record["step"])
                if record["step"] >= 5:
                    self.trainer.stop()

    stopper = StopAt()
    curve = experiment(monitors=[stopper]).run()
    assert stopper.seen == curve.steps[1:]
    assert curve.steps[-1] < 12
    assert experiment(monitors=[PowerLawMonitor(metric="proxy")]).run().steps[-1] == 12


def test_the_oracle_can_write_the_fixed_responses():
    made = experiment(offline_source="oracle", responses_per_prompt=1)
    other = experiment(responses_per_prompt=1)
    rows = torch.arange(32)
    assert not torch.equal(made.source.responses(rows).response_ids, other.source.responses(rows).response_ids)


def test_the_teacher_stays_frozen_and_still():
    teacher = model(1).train()
    before = copy.deepcopy(teacher.state_dict())
    experiment(teacher=teacher, source="online_teacher").run()
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_bad_input():
    with pytest.raises(ValueError, match="share a vocabulary, but got 6, 5, 5"):
        experiment(oracle=model(0, vocabulary=6))
    with pytest.raises(ValueError, match="`prompts_train` and `prompts_teacher` to share no prompt"):
        experiment(prompts_teacher=TRAIN[:2])
    with pytest.raises(ValueError, match="share no prompt"):
        OracleDistillationExperiment(model(0), model(1), model(2), TRAIN, TRAIN, max_new_tokens=2)
    experiment(prompts_teacher=TRAIN[:2], allow_overlap=True)
    with pytest.raises(ValueError, match="at least one prompt"):
        experiment(prompt_fraction=0.01)
