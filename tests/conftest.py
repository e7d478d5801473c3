"""Shape annotations are checked on every call in tests; results do not depend on the machine's cores."""

from __future__ import annotations

import os
import sys
import types

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

# An int is a float, as for mypy (PEP 484); jaxtyping takes its checker by name only.
checker = types.ModuleType("tutelage_type_checker")
checker.check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # type: ignore[attr-defined]
sys.modules[checker.__name__] = checker
install_import_hook("tutelage", "tutelage_type_checker.check")

import torch

torch.set_num_threads(1)
