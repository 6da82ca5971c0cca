"""Models: where they come from, what they are, how they are written.

    model = models.load("rwkv7-g1-1.5b.pth")
    model.params, model.family, model.tokenizer

`base` has the protocol of a family, `sources` loads and saves; each family is a package of its own (`rwkv7`,
`transformer`), file formats are in `formats`, tokenizers in `tokenizers`.
"""

from egg_reason.models.base import (
    FAMILIES,
    AnyFamily,
    Checkpoint,
    Family,
    Loader,
    Model,
    compute_dtype,
    on_cpu,
    register,
)
from egg_reason.models.rwkv7.family import RWKV7Loader
from egg_reason.models.sources import (
    RUN_CONFIG,
    bundled,
    check_destination,
    load,
    locate,
    peek,
    run_model,
    run_model_name,
    save,
)
from egg_reason.models.transformer.family import TransformerLoader

__all__ = [
    "FAMILIES",
    "RUN_CONFIG",
    "AnyFamily",
    "Checkpoint",
    "Family",
    "Loader",
    "Model",
    "bundled",
    "check_destination",
    "compute_dtype",
    "load",
    "locate",
    "on_cpu",
    "peek",
    "register",
    "run_model",
    "run_model_name",
    "save",
]

register(RWKV7Loader())
register(TransformerLoader())
