"""The chosen method as the config of a distillation."""

from __future__ import annotations

import re
from pathlib import Path

from tutelage.comparison.lessons import Setting
from tutelage.comparison.settings import ComparisonConfig
from tutelage.comparison.trial import TRAIN_CACHE, distillation_of, needs_live_teacher
from tutelage.config import DistillConfig, parse_config
from tutelage.teaching import teacher_folder


def winner_config(config: ComparisonConfig, setting: Setting, name: str, shared: Path) -> DistillConfig:
    """The distillation by the winner, ready to use; a teacher that was trained here is read, not trained again."""
    found = distillation_of(config, setting, {})
    plain = found.model_dump(mode="json", exclude_none=True)
    if not found.online:
        teachers = [
            {"name": str(teacher_folder(shared, number).resolve())}
            if teacher.train is not None
            else teacher.model_dump(mode="json", exclude_none=True)
            for number, teacher in enumerate(config.teachers)
        ]
        plain["teacher"] = teachers[0] if len(teachers) == 1 else teachers or None
        asks = any(path.startswith("teacher.") for one in found.arms["lesson"] for path in one.make().objective.reads)
        plain["cache"] = asks and not needs_live_teacher(setting) and (shared / TRAIN_CACHE).exists()
    plain["name"] = f"{config.name}, {name}"
    plain["arms"] = {_arm_name(name): plain["arms"]["lesson"]}
    return parse_config(plain, DistillConfig)


def _arm_name(name: str) -> str:
    return re.sub(r"[^\w .+-]+", "-", name).strip(" .-") or "winner"
