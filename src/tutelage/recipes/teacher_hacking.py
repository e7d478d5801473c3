"""Teacher hacking: when does a student that comes ever closer to its teacher get worse, and what prevents it?

Source: "On Teacher Hacking in Language Model Distillation", ICML 2025, arXiv 2502.02671. The paper releases no code.

The question. A teacher is an imperfect copy of something that cannot be seen in practice. Here it can: the oracle is a
model, so that the distance of a student from the oracle ("golden") is measured along with that from its teacher
("proxy"). Does golden turn up while proxy falls, is that because responses are read again and again, and can it be told
from proxy alone?

The laboratory. Prompts are four of sixteen symbols, responses six tokens. The oracle is a transformer with fixed random
weights, large enough to make its next token depend on all that came before, and its output is scaled to 1.25 nats a
token. Teacher and student are first fitted to 2,000 of its responses; then the student (one layer) is distilled from
the teacher (two layers) on 250 further prompts. Distances are sums over a response of the divergence of full next-token
distributions, along responses that oracle and teacher wrote once to unseen prompts.

The comparison. Arms differ in where responses come from and in nothing else: the start, the prompts, the loss, the
steps and the rate are shared. Arms are compared by optimiser steps; what was sampled is `generated_tokens`.

Where we part from the paper. All is small: 1,000 steps at `quick`, 1,500 at `full`, at ten times the paper's learning
rate, for all arms alike. M = 250 (of {250, 500}), the rate 3e-3 (of {2e-3, 3e-3}), the steps and the monitor's window
were chosen on exploratory runs with other prompts, teachers and starts, then frozen. The monitor fits 10–30 % of the
run: its usual 10–50 % reaches into the departure here (`fired_usual_window` tells what that gives). Models are decoders
at every scale but `paper`, whose encoder–decoders are built and not run. There is no second task (noisy addition). Rise
is relative to the minimum over the run, the start included.

What does not hold, and why. At `quick` all but the monitor holds. At `full`, with five seeds and 1,500 steps, the
first claim misses two of its thresholds: one seed's rise is 4.8 % and not 5 %, and one seed of the online teacher
ends 2.1 % above its minimum and not below 2 %. The direction is the same in every seed (p = 0.0009). A minimum over
thirty noisy points lies below the curve, and the rate never falls, so a rise of 1 to 2 % is what no effect looks like.

The monitor never fires in an online arm, at either scale. It is asked to fire in every offline arm, and that does not
hold: with eight generations golden stays within 2 % of its minimum as it does online, and there is nothing to tell. At
`full` it also misses some seeds that are hacked: departure begins at a number of passes, but the window is a share of
the run, so in a longer run it reaches into the departure, which then counts as noise of the fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tutelage.assessment import ProxyGoldenCurve, diversity_report, response_log_probabilities
from tutelage.data import ArraySamples
from tutelage.models import causal_lm, load_model, parameter_count, save_model
from tutelage.models.pretrained import new_model
from tutelage.objectives import CrossEntropy
from tutelage.reproduction import Arm, Claim, Context, Judgement, Metrics, Needs, Recipe, Results, Scale
from tutelage.scaling import fit_power_law
from tutelage.training import (
    Distillation,
    OfflineResponses,
    OracleDistillationExperiment,
    PowerLawMonitor,
    Trainer,
    TrainingSettings,
    generate_responses,
)

# ---- Scales ----------------------------------------------------------------------------------------------------------

SYMBOLS, VOCABULARY, PROMPT = 16, 20, 4
ADAM = {"optimizer": "adamw", "weight_decay": 0.0, "scheduler": "constant"}
SHARED: dict[str, Any] = {
    "oracle": {"hidden_size": 64, "num_layers": 2, "num_heads": 4},
    "teacher": {"hidden_size": 48, "num_layers": 2, "num_heads": 4},
    "student": {"hidden_size": 32, "num_layers": 1, "num_heads": 4},
    "spread": 6.0,  # factor of the oracle's random weights
    "entropy": 1.25,  # nats a token
    "oracle_pairs": 2000,
    "prompts": 250,
    "eval_prompts": 256,
    "responses_per_prompt": 4,
    "evaluations": 20,
    "monitor_window": (0.1, 0.3),
    "response": 6,
    "warmup_steps": 100,
    "teacher_training": {**ADAM, "learning_rate": 3e-3, "batch_size": 64, "max_steps": 450},  # a little too long
    "start_training": {**ADAM, "learning_rate": 3e-3, "batch_size": 64, "max_steps": 250},
    "distillation": {**ADAM, "learning_rate": 3e-3, "batch_size": 32, "max_steps": 1000},
}

SCALES = {
    "smoke": Scale(
        "smoke",
        seeds=2,
        settings={
            **SHARED,
            "teacher": {"hidden_size": 16, "num_layers": 1, "num_heads": 2},
            "student": {"hidden_size": 16, "num_layers": 1, "num_heads": 2},
            "oracle_pairs": 200,
            "prompts": 40,
            "eval_prompts": 24,
            "evaluations": 10,
            "warmup_steps": 2,
            "teacher_training": {**SHARED["teacher_training"], "max_steps": 20},
            "start_training": {**SHARED["start_training"], "max_steps": 10},
            "distillation": {**SHARED["distillation"], "max_steps": 40},
        },
    ),
    "quick": Scale("quick", 3, SHARED),
    "full": Scale("full", 5, {**SHARED, "distillation": {**SHARED["distillation"], "max_steps": 1500}, "more": True}),
    "paper": Scale(
        "paper",
        seeds=3,
        settings={
            **SHARED,
            "oracle": "google/flan-t5-xl",
            "teacher": "google/t5-v1_1-large",
            "student": "google/t5-v1_1-base",
            "data": {
                "EdinburghNLP/xsum": {"oracle_pairs": 25_000},
                "wmt/wmt14": {"oracle_pairs": 50_000, "options": {"name": "de-en"}},
                "Muennighoff/natural-instructions": {"oracle_pairs": 100_000},
            },
            "prompts": 200_000,
            "prompt_tokens": 1024,
            "response": 128,
            "distillation": {**ADAM, "learning_rate": 3e-4, "batch_size": 32, "max_steps": 390_625},
        },
        needs=Needs(
            gpus=8,
            packages=("datasets",),
            datasets=("EdinburghNLP/xsum", "wmt/wmt14", "Muennighoff/natural-instructions"),
        ),
    ),
}

# The published configurations of the paper's models, so that they can be built without a download.
T5 = {
    "google/flan-t5-xl": {"d_model": 2048, "d_ff": 5120, "num_layers": 24, "num_heads": 32},
    "google/t5-v1_1-large": {"d_model": 1024, "d_ff": 2816, "num_layers": 24, "num_heads": 16},
    "google/t5-v1_1-base": {"d_model": 768, "d_ff": 2048, "num_layers": 12, "num_heads": 12},
}

# ---- Arms: what is compared ------------------------------------------------------------------------------------------

OFFLINE = ("offline", "offline, prompts ÷ 5", "offline, 8 generations")
ONLINE = ("online teacher", "online student")
ARMS = [
    Arm("offline", {"source": "offline"}, description="one fixed response of the teacher to each prompt"),
    Arm(
        "offline, prompts ÷ 5",
        {"source": "offline", "prompt_fraction": 0.2, "generations_per_prompt": 5},
        description="as many responses to a fifth of the prompts",
    ),
    Arm(
        "offline, 8 generations",
        {"source": "offline", "generations_per_prompt": 8},
        description="eight fixed responses to each prompt",
    ),
    Arm("online teacher", {"source": "online_teacher"}, description="a fresh response of the teacher at every visit"),
    Arm("online student", {"source": "online_student"}, description="a fresh response of the student at every visit"),
]
MORE = [
    Arm("mixture", {"source": "mixture", "fraction_online": 0.5}, description="every second response is fresh"),
]


def arms(scale: Scale) -> list[Arm]:
    """Where responses come from."""
    return [*ARMS, *(MORE if scale.settings.get("more") else [])]


def fresh(arm: Arm) -> Arm:
    """Fixed responses become fresh ones: what is left of the effect is not due to reading them again."""
    return replace(arm, settings={"source": "online_teacher"}) if arm.settings["source"] == "offline" else arm


def perfect_teacher(arm: Arm) -> Arm:
    """The oracle teaches: proxy is golden then, and no distance can rise while the other one falls."""
    return replace(arm, settings={**arm.settings, "perfect": True})


# ---- Oracle, teacher and start ---------------------------------------------------------------------------------------


def _model(sizes: Mapping[str, Any], context: Context) -> nn.Module:
    return causal_lm(VOCABULARY, max_length=PROMPT + context["response"], **sizes)


def make_oracle(context: Context) -> nn.Module:
    """Random weights, spread until the next token depends on the whole text, and scaled to the wanted entropy."""
    torch.manual_seed(7)
    oracle = causal_lm(
        VOCABULARY, max_length=PROMPT + context["response"], tie_word_embeddings=False, **context["oracle"]
    ).requires_grad_(False)
    for parameter in oracle.parameters():
        if parameter.ndim > 1:
            parameter.mul_(context["spread"])
    head = oracle.get_output_embeddings().weight  # type: ignore[operator]
    unscaled, low, high = head.clone(), 0.01, 100.0
    asked = _prompts(256, seed=1)
    for _ in range(14):
        scale = (low * high) ** 0.5
        head.copy_(unscaled * scale)
        low, high = (scale, high) if _entropy(oracle, asked, context["response"]) > context["entropy"] else (low, scale)
    return oracle


def _entropy(model: nn.Module, prompts: Tensor, length: int) -> float:
    """Mean over tokens of the next-token entropy along the model's own responses."""
    generator = torch.Generator().manual_seed(0)
    responses = generate_responses(model, prompts, max_new_tokens=length, generator=generator).response_ids
    logs = response_log_probabilities(model, prompts, responses)
    return float(-(logs.exp() * logs).sum(dim=-1).mean())


def _prompts(count: int, *, seed: int) -> Tensor:
    """Different prompts `[count, 4]`, out of all 65,536."""
    numbers = torch.randperm(SYMBOLS**PROMPT, generator=torch.Generator().manual_seed(seed))[:count]
    return torch.stack([numbers // SYMBOLS**place % SYMBOLS for place in range(PROMPT)], dim=1)


def _prompt_sets(context: Context, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Prompts to fit teacher and start on, to distil on, and to measure on: no prompt is in two of them."""
    sizes = [context["oracle_pairs"], context["prompts"], context["eval_prompts"]]
    first, second, third = torch.split(_prompts(sum(sizes), seed=5000 + seed), sizes)
    return first, second, third


def prepare(context: Context) -> dict[str, float]:
    """Fit a teacher and a student's start to the oracle's responses, for every seed."""
    oracle = make_oracle(context)
    save_model(context.folder / "oracle", oracle)
    facts: dict[str, float] = {"oracle_entropy": _entropy(oracle, _prompts(256, seed=2), context["response"])}
    for seed in range(context.scale.seeds):
        asked, _, _ = _prompt_sets(context, seed)
        generator = torch.Generator().manual_seed(6000 + seed)
        pairs = OfflineResponses(oracle, asked, max_new_tokens=context["response"], generator=generator)
        for role, training in (("teacher", "teacher_training"), ("student", "start_training")):
            torch.manual_seed(7000 + seed)
            model = _model(context[role], context)
            _fit(model, pairs, TrainingSettings(seed=seed, **context[training]))
            save_model(context.folder / f"{role}-{seed}", model)
    return facts


def _fit(model: nn.Module, pairs: ArraySamples, settings: TrainingSettings) -> None:
    settings = settings.model_copy(update={"log_every": settings.max_steps, "evaluate_every": settings.max_steps})
    Trainer(Distillation(None, model, CrossEntropy()), pairs, settings=settings).run()


# ---- The experiment --------------------------------------------------------------------------------------------------


def run_arm(context: Context, arm: Arm, seed: int) -> Metrics:
    """Distil one student and give its curves, with what they say about hacking and about the power law."""
    if isinstance(context["oracle"], str):
        raise ValueError("Expected a scale whose models are built here; `paper` needs responses of encoder–decoders.")
    settings = dict(arm.settings)
    oracle = load_model(context.folder / "oracle")
    teacher = oracle if settings.pop("perfect", False) else load_model(context.folder / f"teacher-{seed}")
    fitted, taught, measured = _prompt_sets(context, seed)
    steps = context["distillation"]["max_steps"]
    monitor = PowerLawMonitor(context["monitor_window"], metric="proxy")
    usual = PowerLawMonitor(metric="proxy")
    experiment = OracleDistillationExperiment(
        oracle,
        teacher,
        load_model(context.folder / f"student-{seed}"),
        taught,
        measured,
        max_new_tokens=context["response"],
        prompts_teacher=fitted,
        responses_per_prompt=context["responses_per_prompt"],
        evaluations=context["evaluations"],
        settings=TrainingSettings(
            seed=seed,
            warmup=context["warmup_steps"] / steps,
            log_every=steps,
            evaluate_every=steps,
            **context["distillation"],
        ),
        monitors=[monitor, usual],
        **settings,
    )
    curve = experiment.run()
    diversity = diversity_report(experiment.source)  # of an online source: of one more pass
    return {
        "steps": [float(step) for step in curve.steps],
        "proxy": list(curve.proxy),
        "golden": list(curve.golden),
        "se_proxy": list(curve.se_proxy),
        "se_golden": list(curve.se_golden),
        "golden_start": curve.golden[0],
        "golden_end": curve.golden[-1],
        "golden_minimum": curve.golden[curve.best],
        "proxy_end": curve.proxy[-1],
        "golden_rise": curve.golden_rise,
        "golden_rise_in_errors": (curve.golden[-1] - curve.golden[curve.best]) / curve.se_golden[-1],
        "proxy_rise": curve.proxy_rise,
        "hacking_index": curve.hacking_index(),
        "hacked": float(curve.hacking_interval() is not None),
        "power_law_r2": power_law_r2(curve, after=context["warmup_steps"]),
        "fired": float(monitor.fired_at is not None),
        "fired_at": float(monitor.fired_at or 0),
        "fired_usual_window": float(usual.fired_at is not None),
        "generated_tokens": float(experiment.source.generated_tokens),
        "distinct_prompts": float(diversity.distinct_prompts),
        "duplicate_pairs": diversity.duplicate_pairs,
    }


def power_law_r2(curve: ProxyGoldenCurve, *, after: int) -> float:
    """Explained share of log proxy by a line in log steps, after the warm-up; 0 where proxy does not fall."""
    steps, proxy = np.asarray(curve.steps), np.asarray(curve.proxy)
    try:
        return fit_power_law(steps[steps >= after], proxy[steps >= after], constant=False).r2
    except ValueError:
        return 0.0


def describe(scale: Scale) -> dict[str, str]:
    """Build the networks of a scale and count their parameters; at `paper`, without memory for their weights."""
    described = {}
    for role in ("oracle", "teacher", "student"):
        chosen = scale.settings[role]
        if isinstance(chosen, str):
            with torch.device("meta"):
                model = new_model(
                    "T5ForConditionalGeneration",
                    vocab_size=32_128,
                    d_kv=64,
                    feed_forward_proj="gated-gelu",
                    tie_word_embeddings=False,
                    dropout_rate=0.0,
                    **T5[chosen],
                )
        else:
            model = _model(chosen, Context(scale, Path()))
        described[role] = f"{type(model).__name__}, {parameter_count(model):,} parameters"
    return described


# ---- Claims ----------------------------------------------------------------------------------------------------------


def offline_turns_up(results: Results) -> Judgement:
    """Claim 1."""
    rise, errors = results.values("offline", "golden_rise"), results.values("offline", "golden_rise_in_errors")
    online = results.values("online teacher", "golden_rise")
    test = results.paired("offline", "online teacher", "golden_rise")
    holds = bool((rise >= 0.05).all() and (errors > 2).all() and (online < 0.02).all() and test.p_value < 0.05)
    detail = f"offline {_list(rise)} ({_list(errors, 1)} SE), online teacher {_list(online)}"
    return Judgement(test.difference, holds and test.difference > 0, p_value=test.p_value, detail=detail)


def golden_suffers_more(results: Results) -> Judgement:
    """Claim 2."""
    index, proxy = results.values("offline", "hacking_index"), results.values("offline", "proxy_rise")
    verdict = "" if (index > 0).all() else "; plain overfitting, not teacher hacking"
    detail = f"golden {_list(results.values('offline', 'golden_rise'))}, proxy {_list(proxy)}{verdict}"
    return Judgement(float(index.mean()), bool((index > 0).all()), detail=detail)


def diversity_protects(results: Results) -> Judgement:
    """Claim 3."""
    few, one, many = (results.mean(arm, "golden_rise") for arm in (OFFLINE[1], OFFLINE[0], OFFLINE[2]))
    return Judgement(few - many, few > one > many, detail=f"prompts ÷ 5 {few:.3f}, 1× {one:.3f}, 8 × {many:.3f}")


def online_follows_power_law(results: Results) -> Judgement:
    """Claim 4, first half."""
    online, offline = results.values("online teacher", "power_law_r2"), results.values("offline", "power_law_r2")
    holds = bool((online >= 0.95).all() and (online > offline).all())
    return Judgement(float(online.min()), holds, detail=f"online {_list(online)}, offline {_list(offline)}")


def monitor_tells_them_apart(results: Results) -> Judgement:
    """Claim 4, second half."""
    fired = {arm: results.values(arm, "fired") for arm in (*OFFLINE, *ONLINE)}
    right = [fired[arm] == 1 for arm in OFFLINE] + [fired[arm] == 0 for arm in ONLINE]
    detail = ", ".join(f"{arm}: {int(values.sum())} of {len(values)}" for arm, values in fired.items())
    return Judgement(float(np.mean(right)), bool(np.all(right)), detail=f"fired in {detail}")


def _list(values: Any, digits: int = 3) -> str:
    return " / ".join(f"{value:.{digits}f}" for value in values)


CLAIMS = (
    Claim(
        "offline-hacks",
        "With fixed responses the distance to the oracle turns up; with fresh ones it does not.",
        "offline: golden ends > 2 standard errors and ≥ 5 % above its minimum in every seed; online teacher: < 2 %; "
        "difference of rises > 0, paired p < 0.05",
        offline_turns_up,
        published="a U-shaped proxy–golden curve offline (no figures)",
    ),
    Claim(
        "golden-more-than-proxy",
        "It is teacher hacking and not plain overfitting: golden rises by more than proxy.",
        "offline: hacking index (relative rise of golden from its minimum on, less that of proxy) > 0 in every seed",
        golden_suffers_more,
    ),
    Claim(
        "diversity",
        "Fewer prompts at the same size of the data make it worse, more generations a prompt make it better.",
        "mean rise of golden: prompts ÷ 5 > 1 × > 8 generations",
        diversity_protects,
    ),
    Claim(
        "power-law",
        "With fresh responses the distance to the teacher follows a power law of the steps.",
        "online teacher: R² ≥ 0.95 in log–log after the warm-up, and higher than offline, in every seed",
        online_follows_power_law,
    ),
    Claim(
        "monitor",
        "Departure from the power law tells of hacking without the oracle.",
        "the monitor fires before the end in every offline arm and seed, and in no online arm",
        monitor_tells_them_apart,
    ),
)

recipe = Recipe(
    slug="teacher-hacking",
    scales=SCALES,
    arms=arms,
    run_arm=run_arm,
    claims=CLAIMS,
    prepare=prepare,
    breakages={"fresh": fresh, "perfect-teacher": perfect_teacher},
    describe=describe,
)
