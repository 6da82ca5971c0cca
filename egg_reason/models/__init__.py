"""Models: where they come from, what they are, how they are written.

    model = models.load("rwkv7-g1-1.5b.pth")
    model.params, model.shape, model.tokenizer

`base` loads and saves; a family's code and file layouts are in a package of its own (`rwkv7`), file formats
in `formats`.
"""

from egg_reason.models.base import (
    HUB,
    RUN_CONFIG,
    RUN_MODEL,
    Model,
    bundled,
    compute_dtype,
    load,
    locate,
    save,
)

__all__ = ["HUB", "RUN_CONFIG", "RUN_MODEL", "Model", "bundled", "compute_dtype", "load", "locate", "save"]
