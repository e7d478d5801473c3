"""The small tables that come with scikit-learn, standardised by their training part."""

from __future__ import annotations

from collections.abc import Sequence

from tutelage.data.parts import FRACTIONS
from tutelage.data.samples import Data
from tutelage.data.tables import table_data


def iris(*, fractions: Sequence[float] = FRACTIONS, seed: int = 0) -> Data:
    """Fisher's irises: 150 flowers, 4 measures, 3 kinds.

    >>> iris().train.batch(slice(0, 2)).inputs.shape
    torch.Size([2, 4])
    """
    return _table("iris", fractions, seed)


def wine(*, fractions: Sequence[float] = FRACTIONS, seed: int = 0) -> Data:
    """Wines: 178 samples, 13 measures, 3 growers.

    >>> wine().num_classes
    3
    """
    return _table("wine", fractions, seed)


def breast_cancer(*, fractions: Sequence[float] = FRACTIONS, seed: int = 0) -> Data:
    """Breast tumours: 569 samples, 30 measures, malignant or benign.

    >>> breast_cancer().class_names
    ('malignant', 'benign')
    """
    return _table("breast_cancer", fractions, seed)


def diabetes(*, fractions: Sequence[float] = FRACTIONS, seed: int = 0) -> Data:
    """Diabetes: 442 patients, 10 measures, progression after a year (standardised) as the target of a regression.

    >>> diabetes().task
    'regression'
    """
    return _table("diabetes", fractions, seed)


def _table(name: str, fractions: Sequence[float], seed: int) -> Data:
    from sklearn import datasets

    bunch = getattr(datasets, f"load_{name}")(as_frame=True)
    names = [str(one) for one in getattr(bunch, "target_names", ())]
    return table_data(
        name,
        {"train": bunch.frame},
        target_column="target",
        class_names=names,
        fractions=fractions,
        seed=seed,
        description=f"{len(bunch.frame)} rows of {bunch.data.shape[1]} numbers (scikit-learn)",
    )
