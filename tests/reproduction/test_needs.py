import pytest

from tutelage.reproduction import Needs
from tutelage.reproduction.needs import unmet


def test_what_is_missing_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    needs = Needs(gpus=8, packages=("torch", "no_such_package"), datasets=("uoft-cs/cifar100",))
    missing = unmet(needs)
    assert missing[0] == "the package no_such_package"
    assert missing[1] == "8 CUDA devices (this machine has 1)"
    assert "uoft-cs/cifar100" in missing[2]
    (tmp_path / "datasets--uoft-cs--cifar100" / "snapshots").mkdir(parents=True)
    assert len(unmet(needs)) == 2


@pytest.mark.parametrize("needs", [Needs(), Needs(packages=("torch",))])
def test_nothing_missing(needs):
    assert unmet(needs) == []
