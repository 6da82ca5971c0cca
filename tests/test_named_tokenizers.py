"""Small stand-ins of tokenizers that released transformers have: beginnings, ends and thoughts of their prompts,
from the folder to the ids that the model reads and the text that it writes."""

import dataclasses
import functools
import json

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import folders, transformers
from helpers.chat_templates import TEMPLATES
from tokenizers import AddedToken, Tokenizer, processors

import egg_reason
from egg_reason import models
from egg_reason.models.transformer.family import TransformerFamily
from egg_reason.models.transformer.shape import Shape
from egg_reason.tasks.templates import choose

ROWS = 320  # more than any of the vocabularies has
QUESTION = "What is 1 + 2? Great!"


def added(*tokens: str, special: bool = True) -> list[AddedToken]:
    return [AddedToken(token, special=special, normalized=False) for token in tokens]


def deepseek() -> Tokenizer:
    """Of R1's distilled Qwens: byte-level, puts its beginning before every text."""
    library = folders.byte_level()
    library.add_tokens(added("<|begin|>", "<|end|>", "<|User|>", "<|Assistant|>"))
    library.add_tokens(added("<think>", "</think>", special=False))
    begin = library.token_to_id("<|begin|>")
    library.post_processor = processors.TemplateProcessing(
        "<|begin|> $A", special_tokens=[("<|begin|>", begin)]
    )
    return library


def qwen() -> Tokenizer:
    """Of Qwen2.5 and Qwen3: byte-level, id 0 is the letter "!", puts nothing before a text."""
    library = folders.byte_level()
    library.add_tokens(added("<|endoftext|>", "<|im_start|>", "<|im_end|>"))
    library.add_tokens(added("<think>", "</think>", special=False))
    assert library.token_to_id("!") == 0
    return library


def mistral() -> Tokenizer:
    """In sentencepiece's form, with `<s>` before every text and the tags of an instruction."""
    library = folders.sentencepiece("llama")
    library.add_tokens(added("[INST]", "[/INST]"))
    return library


KINDS = {"deepseek": deepseek, "qwen": qwen, "mistral": mistral, "end at 0": folders.end_at_0}


@functools.cache
def library(kind: str) -> Tokenizer:
    return KINDS[kind]()


def ids(kind: str, *tokens: str) -> tuple[int, ...]:
    found = tuple(library(kind).token_to_id(token) for token in tokens)
    assert None not in found
    return found


def write(
    path, kind, shape=transformers.MISTRAL, template=None, config=None, generation=None, tokenizer=None
):
    """A random transformer's folder, as its publisher would write it."""
    family = TransformerFamily(dataclasses.replace(shape, vocab=ROWS))
    family.save(transformers.params(family.shape), path, "hf", "float32")
    settings = json.loads((path / "config.json").read_text()) | (config or {})
    (path / "config.json").write_text(json.dumps(settings))
    (path / "tokenizer.json").write_text(library(kind).to_str())
    (path / "tokenizer_config.json").write_text(json.dumps(tokenizer or {}))
    if generation is not None:
        (path / "generation_config.json").write_text(json.dumps(generation))
    if template is not None:
        (path / "chat_template.jinja").write_text(template)
    return path


def prompt_of(model, **options):
    """The prompt of a question by the model's own template: text, and ids."""
    chosen = choose(template=model.prompting()["template"], options=options)
    text = chosen.render(QUESTION, QUESTION)
    return text, model.tokenizer.prompt(text)


def theirs(path, **options):
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(path)
    messages = [{"role": "user", "content": QUESTION}]
    return tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=False, **options
    )


CASES = {
    "an opened thought": (
        "deepseek",
        "opened thought",
        {"bos_token": "<|begin|>", "eos_token": "<|end|>", "add_bos_token": True},
        {},
    ),
    "a thought": ("qwen", "thinking switch", {"eos_token": "<|im_end|>"}, {}),
    "a closed thought": (
        "qwen",
        "thinking switch",
        {"eos_token": "<|im_end|>"},
        {"enable_thinking": False},
    ),
    "instructions": ("mistral", "instructions", {"bos_token": "<s>", "eos_token": "</s>"}, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_prompts_are_the_ids_of_transformers(case, tmp_path):
    kind, template, tokenizer, options = CASES[case]
    path = write(tmp_path / "m", kind, template=TEMPLATES[template], tokenizer=tokenizer)
    text, read = prompt_of(models.peek(path), **options)
    assert read == theirs(path, **options)
    begin = ids(kind, tokenizer["bos_token"]) if "bos_token" in tokenizer else ()
    # One beginning of text where the tokenizer has one: that of the template is not put before a second time.
    assert [i for i in read if i in begin] == list(begin) and read[: len(begin)] == list(begin)
    last = {
        "an opened thought": ("<|Assistant|>", "<think>", "\n"),
        "a thought": ("<|im_start|>", "assistant\n"),
        "a closed thought": ("<think>", "\n\n", "</think>", "\n\n"),
        "instructions": ("[/INST]",),
    }[case]
    assert text.endswith("".join(last))
    end = [i for piece in last for i in library(kind).encode(piece, add_special_tokens=False).ids]
    if case != "instructions":  # there, a piece alone would begin with a space
        assert read[-len(end) :] == end


def test_a_text_without_a_template_begins_once(tmp_path):
    for kind, begin in (("deepseek", ids("deepseek", "<|begin|>")), ("mistral", (1,)), ("qwen", ())):
        tokenizer = models.peek(write(tmp_path / kind, kind)).tokenizer
        once = tokenizer.prompt("Great!")
        assert once == [*begin, *tokenizer.encode("Great!")]
        if begin:
            written = library(kind).id_to_token(begin[0])
            assert tokenizer.prompt(f"{written}Great!").count(begin[0]) == 1


@pytest.mark.parametrize(
    ("config", "generation", "tokenizer", "ends"),
    [
        # Qwen2.5: the base model, with the sampling that its file recommends
        (["<|endoftext|>"], ["<|endoftext|>"], "<|endoftext|>", {"<|endoftext|>"}),
        # the same base model as its tokenizer_config.json was published once
        (["<|endoftext|>"], ["<|endoftext|>"], "<|im_end|>", {"<|endoftext|>", "<|im_end|>"}),
        # the model for chats: config.json and the tokenizer name one, generation_config.json two
        (["<|im_end|>"], ["<|im_end|>", "<|endoftext|>"], "<|im_end|>", {"<|endoftext|>", "<|im_end|>"}),
        # three places, three ends
        (["<|endoftext|>"], ["<|im_start|>"], "<|im_end|>", {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}),
    ],
)
def test_ends_are_the_union_of_three_places(config, generation, tokenizer, ends, tmp_path):
    first = ids("qwen", *config)
    path = write(
        tmp_path / "m",
        "qwen",
        config={"eos_token_id": first[0]},
        generation={"eos_token_id": list(ids("qwen", *generation)), "temperature": 0.7, "top_p": 0.8},
        tokenizer={"eos_token": tokenizer},
    )
    model = models.load(path)
    assert set(model.tokenizer.ends) == set(ids("qwen", *ends))
    # Each ends a text, and the others of its vocabulary do not.
    for end in ids("qwen", *ends):
        assert egg_reason.generate(favourite(model, [end]), "1 + 2", max_tokens=4, temperature=0) == [""]
    models.save(model, tmp_path / "copy")
    assert models.peek(tmp_path / "copy").tokenizer.ends == model.tokenizer.ends


def favourite(model, chosen):
    """The model with weights that make these ids the likeliest after any token, in their order."""
    shape: Shape = model.family.shape
    params = model.params
    zero = params.layers.replace(
        self_attn=params.layers.self_attn.replace(o_proj=np.zeros_like(params.layers.self_attn.o_proj)),
        mlp=params.layers.mlp.replace(down_proj=np.zeros_like(params.layers.mlp.down_proj)),
    )
    head = np.zeros((shape.width, shape.vocab), np.float32)
    for strength, i in enumerate(reversed(chosen), 1):
        head[:, i] = strength
    params = params.replace(
        embed_tokens=jnp.ones_like(params.embed_tokens),
        layers=zero,
        norm=np.ones_like(params.norm),
        lm_head=head,
    )
    return dataclasses.replace(model, params=params)


@pytest.mark.parametrize("kind", ["qwen", "end at 0"])
def test_great_comes_back_whatever_id_0_is(kind, tmp_path):
    """Id 0 is the letter "!" in the one and the end of a text in the other."""
    end = ids(kind, "<|endoftext|>")[0]
    model = models.load(write(tmp_path / "m", kind, config={"eos_token_id": end}))
    tokenizer = model.tokenizer
    for text in ("Great!", "!!!", " Great!\n"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert (0 in tokenizer.encode("Great!")) == (kind == "qwen")
    expected = "!!!!" if kind == "qwen" else ""
    assert egg_reason.generate(favourite(model, [0]), "Great!", max_tokens=4, temperature=0) == [expected]


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"temperature": 0.01}, {"top_k": 3}])
def test_rows_without_a_token_are_never_drawn(options, tmp_path):
    model = models.load(write(tmp_path / "m", "qwen"))
    size = model.tokenizer.vocab_size
    assert size < ROWS and model.family.vocabulary == ROWS
    likely = favourite(model, [ROWS - 1, size, 1, size + 7])
    assert egg_reason.generate(likely, "Great!", max_tokens=4, **options) == [
        model.tokenizer.decode_bytes([1] * 4).decode()
    ]
