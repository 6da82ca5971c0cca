"""Models in Hugging Face form with tokenizers of their own, small enough for tests: what users bring.

path = folders.write(tmp_path / "model", "letter at 0", generation={"eos_token_id": [257, 258]})
"""

import functools
import json
from pathlib import Path

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
CORPUS = [
    "Great! The answer is 42.",
    "User: 1 + 2 = 3\n\nAssistant: yes",
    "Two  spaces,\ttabs",
    "<think>so</think>",
]


def byte_level(prefix: bool = False, first: tuple[str, ...] = (), normalizer=None) -> Tokenizer:
    """Byte-level BPE. Without `first`, special tokens at the lowest ids, id 0 is the letter '!', as in Qwen's
    and Llama 3's files."""
    library = Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    library.decoder = decoders.ByteLevel()
    if normalizer:
        library.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=280,
        special_tokens=list(first),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    library.train_from_iterator(CORPUS, trainer)
    return library


def letter_at_0() -> Tokenizer:
    library = byte_level()
    library.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    assert library.token_to_id("!") == 0
    return library


def end_at_0() -> Tokenizer:
    return byte_level(first=("<|endoftext|>", "<|padding|>"))


def sentencepiece(scheme: str = "first", bos: bool = True) -> Tokenizer:
    """Like Llama 2's and Mistral's: U+2581 for a space, bytes for what is unknown, `<s>` before every text."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581"]
    letters = sorted({letter for text in CORPUS for letter in text} - {" "})
    pairs = [("\u2581", "G"), ("r", "e"), ("a", "t"), ("\u2581G", "re"), ("\u2581Gre", "at")]
    vocabulary = {piece: i for i, piece in enumerate([*pieces, *letters, *(a + b for a, b in pairs)])}
    library = Tokenizer(models.BPE(vocabulary, pairs, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if scheme == "llama":
        library.normalizer = normalizers.Sequence(
            [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
        )
        library.decoder = decoders.Sequence(
            [
                decoders.Replace("\u2581", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        )
    else:
        library.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
        library.decoder = decoders.Sequence(
            [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme=scheme, split=False)]
        )
    library.add_special_tokens(["<s>", "</s>"])
    if bos:
        library.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return library


def rstripping() -> Tokenizer:
    """Like Phi-3's: its special tokens swallow the white space behind them."""
    library = byte_level()
    library.add_special_tokens([AddedToken("<|user|>", rstrip=True), AddedToken("<|end|>", rstrip=True)])
    return library


def wordpiece(lowercase: bool = True) -> Tokenizer:
    """Like BERT's: loses capitals and white space."""
    words = [
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "great",
        "Great",
        "!",
        "two",
        "Two",
        "lines",
        ",",
        ".",
        "3",
        "4",
        "7",
        "+",
        "=",
    ]
    library = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    library.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.decoder = decoders.WordPiece()
    return library


LOSSLESS = {
    "letter at 0": letter_at_0,
    "end at 0": end_at_0,
    "prefix space": lambda: byte_level(prefix=True),
    "sentencepiece first": sentencepiece,
    "sentencepiece always": lambda: sentencepiece("always"),
    "sentencepiece never": lambda: sentencepiece("never"),
    "llama": lambda: sentencepiece("llama"),
    "rstripping": rstripping,
}
LOSSY = {
    "wordpiece": wordpiece,
    "wordpiece, cased": lambda: wordpiece(lowercase=False),
    "lowercase": lambda: byte_level(normalizer=normalizers.Lowercase()),
    "white space stripped": lambda: byte_level(normalizer=normalizers.Strip()),
    "spaces dropped": lambda: byte_level(normalizer=normalizers.Replace("  ", " ")),
    "accents and capitals": lambda: byte_level(normalizer=normalizers.BertNormalizer()),
}


@functools.cache
def text_of(kind: str) -> str:
    return (LOSSLESS | LOSSY)[kind]().to_str()


def write(
    path: Path,
    kind: str | None = None,
    rows: int = 320,
    config: dict | None = None,
    generation: dict | None = None,
    tokenizer: dict | None = None,
    template: str | None = None,
) -> Path:
    """Write a random RWKV-7 as a folder. kind: of its tokenizer; None: none. The other arguments are contents
    of config.json (added), generation_config.json, tokenizer_config.json and chat_template.jinja."""
    import jax

    from egg_reason.models.rwkv7.fla import write_huggingface
    from egg_reason.models.rwkv7.model import Shape, random_params

    write_huggingface(
        random_params(Shape(1, 32, 1, 32, 64, rows, 8, 8, 8, 8), jax.random.key(3)), path, "float32"
    )
    settings = json.loads((path / "config.json").read_text())
    settings |= {"eos_token_id": None, "bos_token_id": None} | (config or {})
    (path / "config.json").write_text(json.dumps(settings))
    if kind is not None:
        (path / "tokenizer.json").write_text(text_of(kind))
    for name, content in (("generation_config.json", generation), ("tokenizer_config.json", tokenizer)):
        if content is not None:
            (path / name).write_text(json.dumps(content))
    if template is not None:
        (path / "chat_template.jinja").write_text(template)
    return path
