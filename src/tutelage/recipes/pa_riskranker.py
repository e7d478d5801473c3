"""PA-RiskRanker: does weighting pairs of accounts by the money between them find the accounts that matter?

Source: "Learn to Rank Risky Investors: A Case Study of Predicting Retail Traders' Behaviour and Profitability",
ACM TOIS 44(1), 2025, arXiv 2509.16616.

The question. The few accounts with the largest profits are to be found from behaviour. A network reads each account,
then the list that it stands in, and gives a score. PA-BCE compares the six largest amounts of a list pairwise, each
pair weighted by log10 of the money between. Is that better than a softmax over the list (RankFormer), LambdaLoss, or
plain cross-entropy a row; does the list help; and does the weight?

The data. Made-up traders in lists of one market each, whose mood moves all amounts and turns one feature's meaning
round. 280 lists of 50 (140 of 100 at `full`) teach and 40 (20) choose. The test part is a further 400 (200), since the
top 1 % of a fifth of 20 000 accounts is forty. Labels are the top 1 % by amount; lists are formed without them. `full`
adds traders of one market, in lists with one positive each as the paper forms them (`formed_` metrics are on test lists
formed so, which uses their labels), and scikit-learn's diabetes table, where "amount" is the progression and 10 % are
flagged. No claim is judged on these two.

The comparison. Every network has the same item part, list part, optimiser, epochs and batches, and ends at its best
validation value of its own loss. Every family has two candidates and is judged by the one whose flagged accounts cost
least on validation. Every seed draws its own accounts. LightGBM, with the means of the list's features beside the row's
own, is the baseline that is hard to beat: as a classifier, as a regressor of asinh(amount), and with PA-BCE inside.

Departures from the paper. A wrong decision costs |amount|, since amounts have both signs here. The learning rate is
three times the one the laptop-scale recipe names, for every network, since all are under-trained otherwise. Item
encoders are small perceptrons without pre-training but at `paper`, where they are the pre-trained feature tokenizer.
One scaler, fitted on the training part, serves all parts.

What does not hold, and why. With markets that have moods, PA-BCE flags less money than the softmax loss, costs far more
than cross-entropy of the same network, and orders lists no better with the list stage than without; LightGBM is ahead
of every network. Two reasons can be told apart. A loss on lists cancels what all scores of a list have in common, so
nothing teaches the level by which accounts of different markets are compared when 1 % of all are flagged: every loss on
lists pays for that, cross-entropy and boosted trees do not. And the fifteen pairs of a list's six largest amounts are
little to learn from: the same loss over all pairs orders lists best of all networks, at `full` as well as LightGBM
does. In one market, where levels are alike, all pairs cost no more than LightGBM and less than the softmax loss; six
still lose to it. That weights cost no more than none holds by a percent or less, which is chance: log10 makes the
weights of amounts that are far apart nearly alike. Test lists formed by their labels are no easier here than random
ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.assessment import (
    captured_amount,
    mean_reciprocal_rank,
    misclassification_cost,
    ndcg_at_k,
    top_fraction_decision,
)
from tutelage.data.account_lists import AccountLists, load_account_lists
from tutelage.data.loader import BatchesInOrder
from tutelage.models import FeatureTokenizerTransformer, ListTransformerRanker, parameter_count
from tutelage.objectives import (
    LambdaLoss,
    ListwiseSoftmaxLoss,
    Objective,
    ProfitAwareBoostingObjective,
    ProfitAwarePairwiseLoss,
    ranknet_loss,
)
from tutelage.reproduction import Arm, Claim, Context, Judgement, Metrics, Needs, Recipe, Results, Scale
from tutelage.reproduction.several_data_sets import arms_on, name_on
from tutelage.training import Distillation, Trainer, TrainingSettings

Parts = Mapping[str, AccountLists]

# ---- Scales ----------------------------------------------------------------------------------------------------------

ADAM = {"optimizer": "adam", "weight_decay": 0.0, "scheduler": "cosine"}
NETWORK = {"width": 16, "num_layers": 2, "num_heads": 2, "feed_forward_width": 32, "dropout": 0.1}
LIGHTGBM = {"learning_rate": 0.05, "rounds": 300, "patience": 30}
NEEDS = Needs(packages=("lightgbm",))
SHARED: dict[str, Any] = {
    "network": NETWORK,
    "training": {**ADAM, "learning_rate": 3e-3, "batch_size": 16, "epochs": 15},
    "pretraining": None,
    "lightgbm": LIGHTGBM,
}

SCALES = {
    "smoke": Scale(
        "smoke",
        seeds=2,
        settings={
            **SHARED,
            "data": {"traders": {"lists": (24, 12, 24), "list_size": 10, "fraction": 0.05}},
            "training": {**ADAM, "learning_rate": 3e-3, "batch_size": 16, "epochs": 2},
            "lightgbm": {"learning_rate": 0.1, "rounds": 5, "patience": 5},
        },
        needs=NEEDS,
    ),
    "quick": Scale(
        "quick",
        seeds=3,
        settings={**SHARED, "data": {"traders": {"lists": (280, 40, 400), "list_size": 50, "fraction": 0.01}}},
        needs=NEEDS,
    ),
    "full": Scale(
        "full",
        seeds=3,
        settings={
            **SHARED,
            "data": {
                "traders": {"lists": (140, 20, 200), "list_size": 100, "fraction": 0.01},
                "one_market": {"rows": 28_000, "list_size": 100, "fraction": 0.01, "positives_per_list": 1},
                "diabetes": {"list_size": 11, "fraction": 0.1, "positives_per_list": None},
            },
            "training": {**SHARED["training"], "batch_size": 8},
        },
        needs=NEEDS,
    ),
    "paper": Scale(
        "paper",
        seeds=3,
        settings={
            # Kaggle's mlg-ulb/creditcardfraud as a file here; the label is dropped and drawn anew from the amount.
            "data": {
                "creditcard.csv": {
                    "list_size": 100,
                    "fraction": 0.01,
                    "positives_per_list": 1,
                    "split_seeds": (42, 2024, 2025),
                }
            },
            "network": {"width": 32, "num_layers": 4, "num_heads": 4, "feed_forward_width": 128, "dropout": 0.25},
            "training": {
                **ADAM,
                "scheduler": "constant",
                "learning_rate": 1e-4,
                "weight_decay": 1e-5,
                "batch_size": 256,
                "epochs": 50,
            },
            "pretraining": {**ADAM, "scheduler": "constant", "learning_rate": 1e-3, "batch_size": 1024, "epochs": 100},
            "lightgbm": LIGHTGBM,
        },
        needs=replace(NEEDS, gpus=1),
    ),
}

# ---- Arms: what is compared ------------------------------------------------------------------------------------------


def candidates(group: str, description: str, **settings: Any) -> list[Arm]:
    """A family of networks, with and without bounded scores."""
    return [
        Arm(f"{group} {name}", {**settings, "score_activation": activation}, group, description)
        for name, activation in (("tanh", "tanh"), ("free", None))
    ]


NETWORKS = [
    *candidates("PA-BCE", "top 6 pairs, weighted by money", loss="pa_bce"),
    *candidates("softmax", "softmax over the list (RankFormer)", loss="softmax"),
    *candidates("LambdaLoss", "swaps weighted by NDCG", loss="lambda"),
    *candidates("w = 1", "PA-BCE with all weights 1", loss="unweighted"),
    *candidates("no list", "PA-BCE, items scored alone", loss="pa_bce", list_stage=False),
    *candidates("all pairs", "PA-BCE over all pairs of a list", loss="pa_bce", top_k=None),
    Arm("BCE row", {"loss": "bce", "score_activation": None, "list_stage": False}, "BCE", "cross-entropy, items alone"),
    Arm("BCE list", {"loss": "bce", "score_activation": None}, "BCE", "cross-entropy, list seen"),
]
BOOSTERS = [
    Arm(f"LightGBM {name} {leaves}", {"booster": objective, "leaves": leaves}, f"LightGBM {name}")
    for name, objective in (("classifier", "binary"), ("regressor", "regression"), ("PA-BCE", "pa_bce"))
    for leaves in (7, 31)
]
ARMS = [*NETWORKS, *BOOSTERS]
BESIDE = ("PA-BCE", "softmax", "all pairs", "BCE", "LightGBM classifier", "LightGBM regressor")
"""The groups that run on data sets that no claim is about."""


def arms(scale: Scale) -> list[Arm]:
    """All arms on the first data set, and some on the others."""
    first, *others = scale.settings["data"]
    beside = arms_on([first, *others], [arm for arm in ARMS if arm.group in BESIDE])
    return [*arms_on([first], ARMS), *(arm for arm in beside if arm.settings["data"] != first)]


def shuffled(arm: Arm) -> Arm:
    """What learns from amounts learns from those of other accounts: they change places within every training list."""
    return replace(arm, settings={**arm.settings, "shuffle_amounts": True})


class UnweightedPairs(Objective):
    """PA-BCE with all weights 1: which of two large amounts is larger, whatever is between them."""

    reads = ("student.logits", "batch.extras.amounts")

    def loss(self, scores: Tensor, amounts: Tensor) -> Tensor:
        """The mean over the pairs of each list's six largest amounts."""
        largest = amounts.topk(min(6, amounts.shape[1]), dim=1).indices
        return ranknet_loss(scores.gather(1, largest), amounts.gather(1, largest), soft=False)


class RowCrossEntropy(Objective):
    """Binary cross-entropy of every item by itself."""

    reads = ("student.logits", "batch.target")

    def loss(self, scores: Tensor, target: Tensor) -> Tensor:
        """The mean over items."""
        return F.binary_cross_entropy_with_logits(scores, target.to(scores.dtype))


def objective_of(settings: Mapping[str, Any]) -> Objective:
    """The loss of an arm."""
    match settings["loss"]:
        case "pa_bce":
            return ProfitAwarePairwiseLoss(top_k=settings.get("top_k", 6))
        case "softmax":
            return ListwiseSoftmaxLoss()
        case "lambda":
            return LambdaLoss()
        case "unweighted":
            return UnweightedPairs()
        case "bce":
            return RowCrossEntropy()
    raise ValueError(f"Expected a loss of this recipe, but got {settings['loss']!r}.")


# ---- The experiment --------------------------------------------------------------------------------------------------


def run_arm(context: Context, arm: Arm, seed: int) -> Metrics:
    """Train one network or booster, and judge its scores of the validation and test lists."""
    name, settings = arm.settings["data"], arm.settings
    options = context["data"][name]
    parts = dict(load_account_lists(name, seed, **options))
    if settings.get("shuffle_amounts"):
        generator = torch.Generator().manual_seed(seed)
        places = torch.rand(parts["train"].amounts.shape, generator=generator).argsort(dim=1)
        parts["train"] = replace(parts["train"], amounts=parts["train"].amounts.gather(1, places))
    train, held_out = parts["train"], parts["validation"]
    scores = _boost(context, settings, parts) if "booster" in settings else _teach(context, settings, parts, seed)
    found = _measure(scores["validation"], held_out, options["fraction"], "validation_")
    found |= _measure(scores["test"], parts["test"], options["fraction"], "test_")
    if "formed" in parts:
        found |= _measure(scores["formed"], parts["formed"], options["fraction"], "formed_")
    return {**found, "train_positives": float(train.labels.sum())}


def _teach(context: Context, settings: Mapping[str, Any], parts: Parts, seed: int) -> dict[str, Tensor]:
    """The scores of a network that was taught on the training lists."""
    torch.manual_seed(seed)
    train, held_out = parts["train"], parts["validation"]
    encoder = _item_encoder(context.scale, train.features.shape[-1])
    if context["pretraining"] is not None:
        _fit(_ItemLogit(encoder), RowCrossEntropy(), (train.rows(), held_out.rows()), context["pretraining"], seed)
    network = _network(context.scale, settings, encoder, train.features.shape[-1])
    _fit(network, objective_of(settings), (train, held_out), context["training"], seed)
    network.eval()
    device = next(network.parameters()).device
    with torch.no_grad():
        return {
            part: torch.cat([network(batch.to(device)).cpu() for batch in torch.split(lists.features, 64)])
            for part, lists in parts.items()
        }


def _fit(
    network: nn.Module,
    objective: Objective,
    parts: tuple[AccountLists, AccountLists],
    training: Mapping[str, Any],
    seed: int,
) -> None:
    """Train on the first part, and end at the best value of the same loss on the second."""
    train, held_out = (lists.samples() for lists in parts)
    settings = TrainingSettings(seed=seed, keep_best="validation_loss", **training)
    method = Distillation(None, network, objective)

    @torch.no_grad()
    def evaluate() -> dict[str, float]:
        network.eval()
        batches = BatchesInOrder(held_out, settings.batch_size, next(network.parameters()).device)
        total = sum(loss.item() * len(batch) for batch in batches for loss in method.step(batch).values())
        return {"validation_loss": total / len(held_out)}

    Trainer(method, train, settings=settings, evaluate=evaluate).run()


def _boost(context: Context, settings: Mapping[str, Any], parts: Parts) -> dict[str, Tensor]:
    """The scores of a LightGBM booster that reads an item's features and the means of its list's."""
    import lightgbm

    def rows(lists: AccountLists) -> Any:
        means = lists.features.mean(dim=1, keepdim=True).expand_as(lists.features)
        return torch.cat([lists.features, means], dim=-1).flatten(0, 1).numpy()

    def target(lists: AccountLists) -> Any:
        wanted = lists.labels if settings["booster"] == "binary" else lists.amounts.asinh()
        return wanted.flatten().double().numpy()

    chosen, train = context["lightgbm"], parts["train"]
    options = {
        "num_leaves": settings["leaves"],
        "learning_rate": chosen["learning_rate"],
        "objective": settings["booster"],
        "verbosity": -1,
        "num_threads": 1,
    }
    data = lightgbm.Dataset(rows(train), target(train))
    held_out = lightgbm.Dataset(rows(parts["validation"]), target(parts["validation"]), reference=data)
    callbacks: list[Any] = [lightgbm.early_stopping(chosen["patience"], verbose=False)]
    evaluate = None
    if settings["booster"] == "pa_bce":
        options |= {"metric": "None"}
        sizes = {part: torch.full((len(parts[part].labels),), parts[part].labels.shape[1]) for part in parts}
        options["objective"] = ProfitAwareBoostingObjective(train.amounts.flatten(), sizes["train"])
        loss = ProfitAwarePairwiseLoss(top_k=20)

        def evaluate(scores: Any, _: Any) -> tuple[str, float, bool]:
            amounts = parts["validation"].amounts
            return "pa_bce", loss(torch.as_tensor(scores).reshape(amounts.shape), amounts).item(), False

    booster = lightgbm.train(
        options, data, chosen["rounds"], valid_sets=[held_out], feval=evaluate, callbacks=callbacks
    )
    return {
        part: torch.as_tensor(booster.predict(rows(lists))).reshape(lists.labels.shape) for part, lists in parts.items()
    }


def _measure(scores: Tensor, lists: AccountLists, fraction: float, prefix: str) -> Metrics:
    """What the accounts with the highest scores of all lists are worth, and the order within lists."""
    from sklearn.metrics import f1_score, roc_auc_score

    flat, amounts, labels = scores.flatten(), lists.amounts.flatten(), lists.labels.flatten()
    flagged = top_fraction_decision(flat, fraction=fraction)
    return {
        f"{prefix}cost": misclassification_cost(labels, flagged, amounts.abs()),
        f"{prefix}captured": captured_amount(flat, amounts, fraction=fraction),
        f"{prefix}hits": float((flagged & labels).sum()),
        f"{prefix}positives": float(labels.sum()),
        f"{prefix}f1": float(f1_score(labels, flagged)),
        f"{prefix}macro_f1": float(f1_score(labels, flagged, average="macro")),
        f"{prefix}auc": float(roc_auc_score(labels, flat)),
        f"{prefix}ndcg_10": ndcg_at_k(scores, lists.labels, k=10),
        f"{prefix}reciprocal_rank": mean_reciprocal_rank(scores, lists.labels),
    }


def describe(scale: Scale) -> dict[str, Any]:
    """Build the networks of a scale and count their parameters, without reading data."""
    found: dict[str, Any] = {}
    for name in scale.settings["data"]:
        features = {"diabetes": 10, "creditcard.csv": 29}.get(name, 12)
        network = _network(scale, {"score_activation": "tanh"}, _item_encoder(scale, features), features)
        kinds = f"{type(network).__name__} on {type(network.item_encoder).__name__}"
        size = f"{kinds}, {parameter_count(network):,} parameters, for {name}"
        found[name_on(scale.settings["data"], name, "ranker")] = size
    return found


# ---- Claims ----------------------------------------------------------------------------------------------------------


def best(results: Results, group: str) -> str:
    """The candidate of a group whose flagged accounts cost least on validation."""
    return results.select(group, "validation_cost", lower_is_better=True)


def _shown(results: Results, metric: str, *groups: str) -> str:
    """A metric of the chosen candidates, for a claim's detail."""
    return ", ".join(f"{best(results, group)} {results.mean(best(results, group), metric):.4g}" for group in groups)


def captures_more(results: Results) -> Judgement:
    """Claim 1."""
    mine, other = best(results, "PA-BCE"), best(results, "softmax")
    difference = results.values(mine, "test_captured") - results.values(other, "test_captured")
    f1 = results.mean(mine, "test_macro_f1") / results.mean(other, "test_macro_f1") - 1
    detail = (
        f"{_shown(results, 'test_captured', 'PA-BCE', 'softmax', 'all pairs', 'LightGBM classifier')}; "
        f"at least as much in {int((difference >= 0).sum())} of {len(difference)} seeds; macro-F1 {100 * f1:+.1f} %"
    )
    holds = difference.mean() >= 0 and (difference >= 0).sum() >= 2 * len(difference) / 3
    return Judgement(float(difference.mean()), bool(holds), detail=detail)


def costs_less(results: Results) -> Judgement:
    """Claim 2."""
    rivals = ("softmax", "LambdaLoss", "BCE")
    mine = results.mean(best(results, "PA-BCE"), "test_cost")
    ratio = mine / min(results.mean(best(results, group), "test_cost") for group in rivals)
    boosters = ("LightGBM classifier", "LightGBM regressor", "LightGBM PA-BCE")
    return Judgement(
        ratio, ratio <= 0.95, detail=_shown(results, "test_cost", "PA-BCE", *rivals, "all pairs", *boosters)
    )


def list_helps(results: Results) -> Judgement:
    """Claim 3."""
    mine, other = best(results, "PA-BCE"), best(results, "no list")
    difference = results.difference(mine, other, "test_ndcg_10")
    groups = ("PA-BCE", "no list", "all pairs", "LightGBM classifier", "LightGBM regressor")
    return Judgement(difference, difference >= 0.01, detail=_shown(results, "test_ndcg_10", *groups))


def weights_help(results: Results) -> Judgement:
    """Claim 4."""
    difference = results.difference(best(results, "PA-BCE"), best(results, "w = 1"), "test_cost")
    return Judgement(difference, difference <= 0, detail=_shown(results, "test_cost", "PA-BCE", "w = 1"))


CLAIMS = (
    Claim(
        "captures-more-than-softmax",
        "PA-BCE flags more money than the softmax loss does, with the same network",
        "mean difference of captured amount at 1 % at least 0, and not below 0 in at least 2 of 3 seeds",
        captures_more,
        published="macro-F1 8.4 % above Rankformer on private data; 0.9870 against 0.9820 on credit cards",
    ),
    Claim(
        "costs-less",
        "PA-BCE's wrong decisions cost less than those of the best of the other losses",
        "mean cost at most 0.95 of the smallest mean cost of softmax, LambdaLoss and cross-entropy networks",
        costs_less,
        published="credit cards: 31 368 against 43 822 (Rankformer, softmax)",
    ),
    Claim(
        "list-stage-helps",
        "where the market moves all amounts of a list, seeing the list makes its order better",
        "mean NDCG@10 with the list stage at least that without it + 0.01",
        list_helps,
    ),
    Claim(
        "weights-help",
        "pairs weighted by money cost no more than pairs of weight 1",
        "mean cost with weights at most that without",
        weights_help,
    ),
)

# ---- Small pieces ----------------------------------------------------------------------------------------------------


class _ItemEncoder(nn.Sequential):
    """A perceptron from features to an item's embedding."""

    def __init__(self, num_features: int, width: int) -> None:
        super().__init__(nn.Linear(num_features, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))


class _ItemLogit(nn.Module):
    """What a feature tokenizer is pre-trained as: its logit, for `[rows, 1, features]`."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, features: Tensor) -> Tensor:
        logit: Tensor = self.encoder(features[:, 0])[0]
        return logit


def _item_encoder(scale: Scale, num_features: int) -> nn.Module:
    width = scale.settings["network"]["width"]
    if scale.settings["pretraining"] is None:
        return _ItemEncoder(num_features, width)
    return FeatureTokenizerTransformer(num_features, width=width)


def _network(scale: Scale, settings: Mapping[str, Any], encoder: nn.Module, num_features: int) -> ListTransformerRanker:
    sizes = dict(scale.settings["network"])
    if not settings.get("list_stage", True):
        sizes["num_layers"] = 0
    return ListTransformerRanker(
        num_features, item_encoder=encoder, score_activation=settings["score_activation"], **sizes
    )


recipe = Recipe(
    slug="pa-riskranker",
    scales=SCALES,
    arms=arms,
    run_arm=run_arm,
    claims=CLAIMS,
    breakages={"shuffled": shuffled},
    describe=describe,
)
