"""Commands of models: generate, export, models list, models show."""

from pathlib import Path
from typing import Annotated, Literal

import tyro

from egg_reason.cli.table import print_table

__all__ = ["export", "generate", "models_list", "models_show"]


def generate(
    model: Annotated[str, tyro.conf.Positional],
    prompt: Annotated[str, tyro.conf.Positional],
    /,
    samples: int = 1,
    max_tokens: int = 256,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    think_tokens: int | None = None,
    stop: tuple[str, ...] = (),
    seed: int = 0,
    tokenizer: str | None = None,
    dtype: str = "auto",
) -> int:
    """Write completions of a prompt.

    Args:
        model: a .pth file, a folder, a run, hf:owner/repo/file.pth, or a bundled name.
        prompt: the text to continue, as it is.
        samples: how many completions.
        max_tokens: longest completion.
        temperature: 0 is greedy.
        top_k: 0 is the whole vocabulary.
        top_p: 1 is the whole vocabulary.
        think_tokens: after so many tokens without </think> the tag is forced.
        stop: texts at which a completion ends.
        seed: of the sampling.
        tokenizer: byte, world or a tokenizer.json.
        dtype: float32, bfloat16 or auto.
    """
    from egg_reason import api, models

    texts = api.generate(
        models.load(model, tokenizer),
        prompt,
        samples,
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        think_tokens=think_tokens,
        stop=stop,
        seed=seed,
        dtype=dtype,
    )
    for number, text in enumerate(texts):
        if samples > 1:
            print(f"--- {number + 1}")
        print(prompt + text)
    return 0


def export(
    model: Annotated[str, tyro.conf.Positional],
    out: Annotated[Path, tyro.conf.Positional],
    /,
    format: Literal["pth", "hf"] | None = None,
    dtype: Literal["bfloat16", "float32", "float16"] | None = None,
) -> int:
    """Write a model (a run's, for instance) as a BlinkDL .pth file or a Hugging Face folder.

    Args:
        model: a .pth file, a folder, a run, hf:owner/repo/file.pth, or a bundled name.
        out: the file (pth) or folder (hf) to write.
        format: pth or hf; by default the first that the model's family writes.
        dtype: of the tensors; by default that of the model's own file.
    """
    from egg_reason import models

    models.save(models.load(model), out, format, dtype)
    print(out)
    return 0


def models_list() -> int:
    """List the bundled models."""
    from egg_reason import models

    for name, path in models.bundled().items():
        print(f"{name}  {path.stat().st_size / 1e6:.1f} MB")
    return 0


def models_show(model: Annotated[str, tyro.conf.Positional], /) -> int:
    """Show what a model is: sizes read from its tensors, tokenizer, fingerprint.

    Args:
        model: a .pth file, a folder, a run, hf:owner/repo/file.pth, or a bundled name.
    """
    import jax

    from egg_reason import models

    loaded = models.load(model)
    facts = {
        "name": loaded.name,
        "weights": f"{sum(x.size for x in jax.tree.leaves(loaded.params)):,}",
        **loaded.family.describe(),
    }
    facts |= {
        "stored as": loaded.dtype,
        "tokenizer": loaded.tokenizer.name,
        "fingerprint": loaded.fingerprint,
    }
    print_table(facts)
    bundled = models.bundled().get(model)
    if bundled is not None:
        print("\n" + bundled.with_suffix(".md").read_text().strip())
    return 0
