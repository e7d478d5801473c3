import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.scaling import PowerLawPlusConstant

laws = st.builds(PowerLawPlusConstant, st.floats(0, 5), st.floats(1e-8, 1e8), st.floats(0.03, 2))


@settings(max_examples=25, deadline=None)
@given(laws, st.floats(1e-3, 1e6))
def test_solve_undoes_predict(law, x):
    reducible = float(law.reducible(x))
    if 1e-4 < reducible < 1e4:  # else the sum with the constant loses its digits
        assert law.solve(float(law.predict(x))) == pytest.approx(x, rel=1e-5)


def test_prediction_by_hand():
    law = PowerLawPlusConstant(L_inf=0.5, x0=16.0, alpha=0.25)
    np.testing.assert_allclose(law.predict([[16, 1], [256, 65536]]), [[1.5, 2.5], [1.0, 0.625]])


def test_per_image_law_of_a_per_token_law():
    law = PowerLawPlusConstant(L_inf=2.64, x0=1.6e-8, alpha=0.16).rescale(768)
    assert law.x0 == pytest.approx(1.73e10, rel=2e-3)
    token = PowerLawPlusConstant(L_inf=2.64, x0=1.6e-8, alpha=0.16)
    np.testing.assert_allclose(law.predict([1.0, 1e3]), 768 * token.predict([1.0, 1e3]))


@pytest.mark.parametrize(("L_inf", "x0", "alpha"), [(-1.0, 1.0, 1.0), (0.0, 0.0, 1.0), (0.0, 1.0, -0.5)])
def test_bad_parameters(L_inf, x0, alpha):
    with pytest.raises(ValueError, match="Expected argument"):
        PowerLawPlusConstant(L_inf, x0, alpha)


def test_a_loss_below_the_floor_is_never_reached():
    with pytest.raises(ValueError, match=r"above L_inf = 2\.0, but got 2\.0"):
        PowerLawPlusConstant(2.0, 1.0, 1.0).solve(2.0)
