"""What learns, spread over processes: its blocks, tied weights, half precision, and a main process that dies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.reliability.faults import Faults
from tests.reliability.shared_work import Network, carry_out, check_alike, launch, result
from tutelage.files import read_json
from tutelage.training.sharding import load_optimizer, repeated_blocks, spread_like, whole_tree


def test_blocks_that_repeat_are_found_once_and_not_where_they_share() -> None:
    network = Network(4, 0)
    assert repeated_blocks(network) == list(network.blocks)
    assert repeated_blocks(nn.Sequential(network, nn.ReLU())) == [network]  # the outermost
    network.blocks[1].first.weight = network.blocks[0].first.weight
    assert repeated_blocks(network) == [network.blocks[2]]
    assert repeated_blocks(nn.Sequential(nn.Linear(2, 2), nn.ReLU())) == []


def test_ordinary_tensors_and_states_pass_through() -> None:
    value = torch.arange(3.0)
    assert spread_like(value, torch.zeros(3)) is value
    assert whole_tree({"a": (value, 1)}, keep=False) == {"a": (None, 1)}
    layer = nn.Linear(2, 2)
    ours, theirs = (torch.optim.AdamW(layer.parameters()) for _ in range(2))
    layer(torch.ones(1, 2)).sum().backward()
    ours.step()
    load_optimizer(theirs, whole_tree(ours.state_dict()))
    for mine, other in zip(ours.state.values(), theirs.state.values(), strict=True):
        assert torch.equal(mine["exp_avg"], other["exp_avg"])


@pytest.mark.reliability
def test_four_processes_and_one_that_dies(tmp_path: Path, faults: Faults) -> None:
    parts: dict[str, dict[str, Any]] = {
        "plain": {},
        "features": {"kind": "features", "gradient_accumulation": 2, "clip_norm": 0.5},
        "moving": {"kind": "moving", "keep_best": "validation_loss"},
        "tied": {"kind": "tied"},
    }
    jobs: list[dict[str, Any]] = [{"name": f"{name}-whole", **options} for name, options in parts.items()]
    jobs += [{"name": name, "sharding": "full", **options} for name, options in parts.items()]
    jobs += [
        {"name": "half", "sharding": "full", "precision": "bf16"},
        {"name": "scaled", "sharding": "full", "precision": "fp16", "refused": True},
        {"name": "killed", "sharding": "full", "kind": "features", "ends": 8, "rank": 0},
    ]
    done = launch(tmp_path, jobs, processes=4)
    for name, options in parts.items():
        (tmp_path / "alone" / name).mkdir(parents=True)
        carry_out(tmp_path / "alone" / name, **options)
        check_alike(tmp_path / "alone" / name, tmp_path / f"{name}-whole")
        check_alike(tmp_path / "alone" / name, tmp_path / name)
        held = read_json(tmp_path / name / "held.json")
        assert held["values"] <= 0.35 * held["of"]
    assert result(tmp_path / "half")[0][-1]["loss"] == pytest.approx(result(tmp_path / "plain")[0][-1]["loss"], rel=0.1)
    assert "fp16" in (tmp_path / "scaled" / "refused.txt").read_text()

    with faults.inject("kill -9 of the main process of four"):
        assert done.returncode != 0
        assert done.stderr.count("Another process of this run ended") == 3, done.stderr[-3000:]
        again = [{"name": name, "sharding": "full", "kind": "features", "resume": True} for name in ("killed", "whole")]
        assert launch(tmp_path, again, processes=4).returncode == 0
        (records, learned), (others, relearned) = result(tmp_path / "killed"), result(tmp_path / "whole")
        assert records == others
        assert all(torch.equal(value, relearned[name]) for name, value in learned.items())
