import pytest
import torch

from tutelage.models import build_model, centre_detector, decode_centres


def test_predictions_of_every_cell_start_unsure() -> None:
    model = build_model("centre_detector", num_classes=3, input_shape=(1, 32, 24)).eval()
    predictions = model(torch.randn(2, 1, 32, 24))
    assert predictions.shape == (2, 8, 6, 7)
    assert predictions[..., :3].sigmoid().mean() < 0.1
    with pytest.raises(ValueError, match=r"`len\(widths\)` to be at least 2"):
        centre_detector((1, 32, 32), 3, widths=(8,))


def test_decoding_finds_the_surest_peaks() -> None:
    predictions = torch.full((2, 4, 4, 6), -9.0)
    distances = torch.tensor([1.0, 1.5, 2.0, 0.5])
    predictions[..., 2:] = distances.expm1().log()  # the inverse of softplus
    predictions[0, 1, 2, 1] = 3.0
    predictions[0, 1, 3, 1] = 2.0  # beside a surer one of its class: no peak
    predictions[0, 1, 3, 0] = 1.0  # of another class: a peak
    predictions[1, 3, 0, 0] = 0.0
    found = decode_centres(predictions, most=2)
    assert found.labels[0].tolist() == [1, 0]
    torch.testing.assert_close(found.scores[0], torch.tensor([3.0, 1.0]).sigmoid())
    centre = torch.tensor([2.5, 1.5, 2.5, 1.5])
    torch.testing.assert_close(found.boxes[0, 0], 4 * (centre + distances * torch.tensor([-1.0, -1.0, 1.0, 1.0])))
    assert found.labels[1, 0] == 0
    torch.testing.assert_close(found.boxes[1, 0, :2], torch.tensor([4 * (0.5 - 1.0), 4 * (3.5 - 1.5)]))
