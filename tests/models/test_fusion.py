import pytest
import torch
from torch import nn

from tutelage.features import FeatureTaps
from tutelage.models import FusionNetwork


def test_branches_are_concatenated_in_their_order_and_can_be_tapped():
    network = FusionNetwork({"one": nn.Linear(2, 3), "two": nn.Linear(4, 5)}, nn.Linear(8, 6))
    one, two = torch.randn(7, 2), torch.randn(7, 4)
    features = torch.cat([network.branches["one"](one), network.branches["two"](two)], dim=1)
    with FeatureTaps(network, ["concatenated"]) as taps:
        said = network(two=two, one=one)
    torch.testing.assert_close(taps.features["concatenated"], features)
    torch.testing.assert_close(said, network.body(features))


def test_views_must_be_those_of_the_branches():
    network = FusionNetwork({"one": nn.Linear(2, 3)}, nn.Linear(3, 6))
    with pytest.raises(ValueError, match="Expected the views one, but got two"):
        network(two=torch.zeros(1, 2))
    with pytest.raises(ValueError, match="at least one network"):
        FusionNetwork({}, nn.Identity())
