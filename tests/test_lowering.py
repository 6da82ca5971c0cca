"""Every program of a run lowers for CUDA and TPU, exported here on a CPU, with the branches for accelerators.

Nothing is compiled for a device and nothing runs on one. Weights are abstract: shapes and dtypes alone.
"""

import dataclasses
import functools
import re
from pathlib import Path

import jax
import optax
import pytest
from jax import export

import egg_reason
from egg_reason import models
from egg_reason.algorithms.evolution import EvolutionStrategy
from egg_reason.algorithms.grpo import GRPO
from egg_reason.algorithms.objective import Objective
from egg_reason.engine import Engine, PromptLengths, Sampling
from egg_reason.engine.memory import AbstractStream, stream_of
from egg_reason.models.rwkv7 import model as rwkv7
from egg_reason.models.rwkv7.family import RWKV7Family
from egg_reason.models.rwkv7.wkv_pallas import wkv_step_pallas
from egg_reason.models.transformer import model as transformer
from egg_reason.models.transformer.family import TransformerFamily
from egg_reason.models.transformer.shape import Shape
from egg_reason.needs import Call, size
from egg_reason.perturb.paths import cast
from egg_reason.perturb.trainable import trained

QWEN2 = {"norm_eps": 1e-6, "rope_theta": 1e6, "qkv_bias": True, "tied": True}
SHAPES = {
    "rwkv7 tiny": rwkv7.Shape(2, 64, 2, 32, 128, 256, 16, 16, 16, 16),
    "qwen2 tiny": Shape("qwen2", 2, 48, 3, 1, 16, 96, 256, windows=(None, 32), context=2048, **QWEN2),
    "rwkv7 1.5B": rwkv7.Shape(24, 2048, 32, 64, 8192, 65536, 96, 96, 64, 256),
    # Qwen2.5-1.5B
    "qwen2 1.5B": Shape(
        "qwen2", 28, 1536, 12, 2, 128, 8960, 151936, windows=(None,) * 28, context=32768, **QWEN2
    ),
}
TINY = ["rwkv7 tiny", "qwen2 tiny"]
LARGE = ["rwkv7 1.5B", "qwen2 1.5B"]
PLATFORMS = ["cuda", "tpu"]

LANES, GROUP, SLOTS, BEGINNINGS = 64, 8, 32, 32
LONGEST, MOST, POPULATION, PROMPTS = 300, 512, 256, 8
CHUNK = 64
"""Directions that an update draws at a time."""

DONATED = {"decode": 3, "fill": 3, "assign": 1, "add": 1, "apply": 4, "accumulate": 4}
"""The argument that a program may overwrite."""
PROGRAMS = {*DONATED, "draw", "grpo apply"}
TRITON = "__gpu$xla.gpu.triton"


@dataclasses.dataclass(frozen=True)
class Words:
    """What an engine reads of a tokenizer when it makes programs."""

    vocab_size: int
    ends: tuple[int, ...] = (0,)
    absent: tuple[int, ...] = (7, 9)


def family_of(name, platform, **options):
    shape = SHAPES[name]
    kind = TransformerFamily if isinstance(shape, Shape) else RWKV7Family
    return kind(shape, platform=platform, **options)


def programs(family, rank=1, trainable="matrices", cut=None, **options) -> tuple[AbstractStream, dict]:
    """Return a stream of the engine, and all programs of a run with eggroll (rank 0: openes) or grpo, as the
    run's own parts give them. cut: settings of sampling. options: of the evolution strategy."""
    room = transformer if isinstance(family, TransformerFamily) else rwkv7
    master = jax.eval_shape(lambda: room.random_params(family.shape, jax.random.key(0)))
    dtype = models.compute_dtype("auto", family.platform)
    copy = jax.eval_shape(functools.partial(cast, dtype=dtype), master)
    shared = {"parameters": trained(family.parameters(), [trainable]), "compute_dtype": dtype}
    evolution = EvolutionStrategy(
        population=POPULATION, rank=rank, sigma=1e-3, learning_rate=1e-4, **shared, **options
    )
    grpo = GRPO(
        family=family,
        samples=8,
        max_tokens=MOST,
        learning_rate=1e-6,
        optimiser=optax.adam(1.0),
        objective=Objective(),
        vocabulary=family.vocabulary,
        **shared,
    )
    engine = Engine(family, Words(family.vocabulary), LANES, GROUP)
    sampling = Sampling(max_tokens=MOST, **cut or {})
    lengths = PromptLengths(LONGEST, LONGEST - 20)
    stream = stream_of(engine, evolution.noise, copy, sampling, lengths, POPULATION, PROMPTS)
    update = grpo.calls(master, LONGEST + MOST - 1)
    calls = stream.calls | evolution.calls(master) | {"accumulate": update["accumulate"]}
    return stream, calls | {"grpo apply": update["apply"]}


def exported(call: Call, platform: str, custom: tuple[str, ...] = ()) -> export.Exported:
    """Return a program as `jax.export` lowers it for a platform. custom: foreign kernels that it may call."""
    checks = [export.DisabledSafetyCheck.custom_call(name) for name in custom]
    return export.export(call.function, platforms=[platform], disabled_checks=checks)(*call.arguments)


def check(name: str, call: Call, result: export.Exported, platform: str) -> str:
    """Fail unless a program was lowered for a platform and overwrites all that it may. Return its text."""
    text = result.mlir_module()
    assert result.platforms == (platform,), name
    assert "func.func public @main" in text and text.count(" stablehlo.") > 20, name
    donated = len(jax.tree.leaves(call.arguments[DONATED[name]])) if name in DONATED else 0
    assert (text.count("tf.aliasing_output"), text.count("jax.buffer_donor")) == (donated, 0), name
    return text


def float32_products(text: str) -> list[str]:
    """Return the precision of every product of two float32 arrays. The default is TF32 on a GPU, bfloat16 on a
    TPU."""
    return re.findall(
        r"stablehlo\.dot_general.*?(?:precision = \[(\w+).*)? : \(tensor<[\dx]*f32>, tensor<[\dx]*f32>\)",
        text,
    )


def bytes_of(avals) -> int:
    return sum(aval.size * aval.dtype.itemsize for aval in avals)


VARIANTS = {
    "eggroll": {},
    # What eggroll with its usual settings has no part of: noise on tables and vectors, dense noise, a decay,
    # an optimiser with a state, a cut distribution.
    "openes": {
        "rank": 0,
        "trainable": "all",
        "optimiser": optax.adam(1.0),
        "anchor_decay": 0.1,
        "cut": {"top_k": 20, "top_p": 0.9},
    },
    "all": {"rank": 8, "trainable": "all"},
}


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize(
    "variant", ["eggroll", *(pytest.param(variant, marks=pytest.mark.slow) for variant in ("openes", "all"))]
)
@pytest.mark.parametrize("name", TINY)
def test_every_program_lowers(name, variant, platform):
    _, calls = programs(family_of(name, platform), **VARIANTS[variant])
    assert set(calls) == PROGRAMS
    precisions = {
        program: float32_products(check(program, call, exported(call, platform), platform))
        for program, call in calls.items()
    }
    if name.startswith("qwen2"):
        # Gradients are float32 there, and their factors bfloat16 activations, which lose nothing.
        del precisions["accumulate"]
    # The recurrence of RWKV-7, and the sum of directions, which must be those that were tried.
    expected = {"add"} | ({"decode", "fill", "accumulate"} if name.startswith("rwkv7") else set())
    assert {program for program, of_program in precisions.items() if of_program} == expected
    assert {precision for of_program in precisions.values() for precision in of_program} == {"HIGHEST"}


@pytest.mark.slow
@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("name", LARGE)
def test_every_program_lowers_at_1_5_billion_weights(name, platform):
    """The bytes of arguments and results, too, are those that shapes give on paper."""
    family = family_of(name, platform)
    stream, calls = programs(family)
    paper = on_paper(name)
    assert set(calls) == set(paper.programs) == PROGRAMS
    assert (size(stream.noise), size(stream.slots)) == (paper.noise, paper.slots)
    assert size(stream.lanes.state) == paper.lanes
    print(f"\n{name} for {platform}, GiB in and out")
    for program, call in calls.items():
        result = exported(call, platform)
        check(program, call, result, platform)
        moved = bytes_of(result.in_avals), bytes_of(result.out_avals)
        print(f"{program:<10} {moved[0] / 2**30:8.3f} {moved[1] / 2**30:8.3f}")
        # Texts, numbers of lanes and the like come on top.
        assert all(
            0 <= real - own < 1 << 20 for real, own in zip(moved, paper.programs[program], strict=True)
        )


@pytest.mark.parametrize("name", TINY)
def test_a_program_for_an_accelerator_takes_its_branches(name):
    """The layers stay in one stack, activations and cache are bfloat16, prompts are cut into long pieces, and
    no product is written as a CPU wants it. On the devices in use, here a CPU, all is otherwise."""
    layers = SHAPES[name].layers
    matrix = {"rwkv7 tiny": (64, 128), "qwen2 tiny": (48, 96)}[name]  # into the feed-forward network
    cached = f"tensor<{LANES}x1x{LONGEST + MOST}x16x"
    for platform in ("tpu", None):
        accelerator = platform in PLATFORMS
        _, calls = programs(family_of(name, platform))
        results = {program: exported(calls[program], platform or "cpu") for program in ("decode", "fill")}
        for program, result in results.items():
            shapes = [aval.shape for aval in result.in_avals]
            assert ((layers, *matrix) in shapes) == accelerator, program
            assert (matrix in shapes) == (not accelerator), program
            assert any(aval.dtype == "bfloat16" for aval in result.in_avals) == accelerator, program
        piece = 150 if accelerator else 30
        assert any(shape == (16, piece) for shape in (aval.shape for aval in results["fill"].in_avals))
        if name == "qwen2 tiny":
            text = results["decode"].mlir_module()
            assert (f"{cached}bf16>" in text) == accelerator
            assert (f"{cached}f32>" in text) == (not accelerator)
            assert ("optimization_barrier" in text) == (not accelerator)  # of `Transposed`: the tied head


@pytest.mark.parametrize("name", [TINY[0], pytest.param(LARGE[0], marks=pytest.mark.slow)])
def test_the_kernel_is_in_cudas_program_alone(name):
    """Where it is asked for: it is no default anywhere. Without a check of custom calls, which promises that
    later releases of JAX read the program."""
    call = programs(family_of(name, "cuda", step=wkv_step_pallas))[1]["decode"]
    with pytest.raises(ValueError, match="custom call"):
        exported(call, "cuda")
    result = exported(call, "cuda", (TRITON,))
    assert check("decode", call, result, "cuda").count(f"custom_call @{TRITON}") == SHAPES[name].layers
    for platform in PLATFORMS:
        call = programs(family_of(name, platform))[1]["decode"]
        assert "custom_call @" not in exported(call, platform).mlir_module()


def test_one_function_asks_for_the_platform():
    """Whatever else asked would take another platform's branch in a program that is exported."""
    package = Path(egg_reason.__file__).parent
    asking = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if any(word in path.read_text() for word in ("default_backend", "platform_dependent"))
    }
    assert asking == {"models/base.py"}


@dataclasses.dataclass
class Paper:
    """Bytes that follow from the sizes of a model. programs: in and out of each, without small tables."""

    noise: int
    lanes: int
    slots: int
    programs: dict[str, tuple[int, int]]


def on_paper(name: str) -> Paper:
    if name == "rwkv7 1.5B":
        layers, width, ffn = 24, 2048, 8192
        ranks = [96, 96, 64, 256]
        matrices = [(width, rank) for rank in ranks] * 2 + [(width, width)] * 4 + [(width, ffn)] * 2
        # Mixes 6 + 1, biases of the ranks' maps 3, k_k, k_a, r_k, and weight and bias of three norms.
        vectors = layers * 19 * width + 4 * width
        tables = 2 * 65536 * width
        # Shifts in bfloat16, states in float32.
        lane = slot = layers * (2 * width * 2 + 32 * 64 * 64 * 4)
    else:
        layers, width, ffn = 28, 1536, 8960
        matrices = [(width, 1536)] * 2 + [(width, 256)] * 2 + [(width, ffn)] * 3
        vectors = layers * (1536 + 256 + 256 + 2 * width) + width
        tables = 151936 * width
        # Keys and values of two heads of 128 in bfloat16, and a length.
        lane, slot = (layers * 2 * 2 * 128 * tokens * 2 + 4 for tokens in (LONGEST + MOST, LONGEST))
    trained = layers * sum(rows * columns for rows, columns in matrices)
    weights = trained + vectors + tables
    direction = 2 * layers * sum(rows + columns for rows, columns in matrices)
    noise, drawn = LANES // GROUP * direction, CHUNK * direction
    lanes, slots = LANES * lane, (SLOTS + BEGINNINGS) * slot
    moved, master, copy = 4 * trained, 4 * weights, 2 * weights
    return Paper(
        noise,
        lanes,
        slots,
        {
            "decode": (copy + noise + lanes + slots, lanes),
            "fill": (copy + noise + slots, slots),
            "assign": (noise, noise),
            "draw": (0, drawn),
            "add": (moved + drawn, moved),
            "apply": (2 * moved, moved),
            # The weights that are moved come twice: by themselves, and among all.
            "accumulate": (2 * moved + master, moved),
            # Adam keeps two numbers a weight.
            "grpo apply": (4 * moved, 3 * moved),
        },
    )
