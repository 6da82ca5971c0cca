"""Commands of models: generate, export, models list, models show."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from egg_reason.cli.flags import named, option
from egg_reason.cli.table import print_table

if TYPE_CHECKING:
    from egg_reason.models.tokenizers import Tokenizer as Words

__all__ = ["export", "generate", "models_list", "models_show"]

Tokenizer = Annotated[
    str | None, option("byte, world, or the path of a tokenizer.json", "the model's own", "TEXT")
]


def generate(
    model: Annotated[str, named("MODEL")],
    prompt: Annotated[str, named("PROMPT")],
    /,
    samples: int = 1,
    max_tokens: int = 256,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    think_tokens: Annotated[
        int | None, option("after so many tokens without </think> the tag is forced", "never", "INT")
    ] = None,
    stop: Annotated[
        tuple[str, ...], option("texts at which a completion ends", "the end token alone", "[TEXT ...]")
    ] = (),
    seed: int = 0,
    tokenizer: Tokenizer = None,
    dtype: Annotated[
        str,
        option(
            "precision of the computation; auto: bfloat16 on an accelerator",
            "auto",
            "{auto,float32,bfloat16}",
        ),
    ] = "auto",
) -> int:
    """Write completions of a prompt.

    Args:
        model: a .pth file, a folder, a run, hf:owner/repo/file.pth, or a bundled name.
        prompt: the text to continue, as it is.
        samples: how many completions.
        max_tokens: longest completion.
        temperature: 0 is greedy.
        top_k: draw from the k likeliest tokens; 0: from all.
        top_p: draw from the likeliest tokens whose probabilities add up to p; 1: from all.
        seed: random seed of the sampling.
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
    model: Annotated[str, named("MODEL")],
    out: Annotated[Path, named("OUT")],
    /,
    format: Annotated[
        Literal["pth", "hf"] | None,
        option(
            "a .pth file or a Hugging Face folder", "the first that the model's family writes", "{pth,hf}"
        ),
    ] = None,
    dtype: Annotated[
        Literal["bfloat16", "float32", "float16"] | None,
        option("precision of the tensors", "that of the model's own file", "{bfloat16,float32,float16}"),
    ] = None,
    tokenizer: Tokenizer = None,
) -> int:
    """Write a model (a run's, for instance) as a BlinkDL .pth file or a Hugging Face folder.

    The files of a tokenizer of its own, chat template included, are written too.

    Args:
        model: a .pth file, a folder, a run, hf:owner/repo/file.pth, or a bundled name.
        out: the file (pth) or folder (hf) to write.
    """
    from egg_reason import models

    models.save(models.load(model, tokenizer), out, format, dtype)
    print(out)
    return 0


def models_list() -> int:
    """List the bundled models."""
    from egg_reason import models

    for name, path in models.bundled().items():
        print(f"{name}  {path.stat().st_size / 1e6:.1f} MB")
    return 0


def models_show(model: Annotated[str, named("MODEL")], /, tokenizer: Tokenizer = None) -> int:
    """Show what a model is: sizes read from its tensors, tokenizer, end tokens, fingerprint.

    Args:
        model: a .pth file, a folder, a run, hf:owner/repo/file.pth, or a bundled name.
    """
    import jax

    from egg_reason import models

    loaded = models.load(model, tokenizer)
    facts = {
        "name": loaded.name,
        "weights": f"{sum(x.size for x in jax.tree.leaves(loaded.params)):,}",
        **loaded.family.describe(),
    }
    facts |= {
        "stored as": loaded.dtype,
        "tokenizer": loaded.tokenizer.name,
        "end tokens": ", ".join(_with_text(loaded.tokenizer, end) for end in loaded.tokenizer.ends) or "none",
        "fingerprint": loaded.fingerprint,
    }
    print_table(facts)
    bundled = models.bundled().get(model)
    if bundled is not None:
        print("\n" + bundled.with_suffix(".md").read_text().strip())
    return 0


def _with_text(tokenizer: "Words", token: int) -> str:
    """Return an id, with the text that it stands for if it has any."""
    text = tokenizer.decode([token])
    return f"{token} {text!r}" if text else str(token)
