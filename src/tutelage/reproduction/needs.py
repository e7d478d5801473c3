"""Whether this machine has what a scale needs, told before anything runs."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from tutelage.reproduction.recipe import Needs


def unmet(needs: Needs) -> list[str]:
    """What is missing here, one clear phrase each; empty when the scale can run.

    Nothing is downloaded: a data set counts only when the local Hugging Face cache holds it.

    >>> unmet(Needs(packages=("no_such_package",)))
    ['the package no_such_package']
    >>> unmet(Needs())
    []
    """
    missing = [f"the package {name}" for name in needs.packages if importlib.util.find_spec(name) is None]
    if needs.gpus:
        import torch

        found = torch.cuda.device_count()
        if found < needs.gpus:
            missing.append(f"{needs.gpus} CUDA device{'s' if needs.gpus > 1 else ''} (this machine has {found})")
    if needs.datasets:
        from huggingface_hub import constants
        from huggingface_hub.file_download import repo_folder_name

        for name in needs.datasets:
            cached = repo_folder_name(repo_id=name, repo_type="dataset")
            if not (Path(constants.HF_HUB_CACHE) / cached / "snapshots").is_dir():
                missing.append(
                    f"the data set {name} in the Hugging Face cache (`hf download --repo-type dataset {name}`)"
                )
    return missing
