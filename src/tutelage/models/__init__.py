"""Models: small builders, one way to call any of them, specifications, saving, export and sizes.

The room is lazy: `transformers` and the exporters are imported when a name that needs them is first used.
"""

from __future__ import annotations

from tutelage.models.call import call_model, head_path

__all__ = ["call_model", "head_path"]
