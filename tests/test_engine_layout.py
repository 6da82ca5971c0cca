"""The engine's arrays: what `memory.py` compiles for is what streams hand to their programs."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_engine import ARCHITECTURE, PERTURBED, SAMPLING, engine, params, population

from egg_reason import engine as room
from egg_reason.engine import Engine, Generator, Jobs, LengthHistory, PromptLengths, make_engine
from egg_reason.engine import lanes as device
from egg_reason.engine.lanes import Capacity
from egg_reason.engine.layout import Layout, empty_pieces, padded_groups, waiting_table
from egg_reason.models.tokenizers import ByteTokenizer
from egg_reason.perturb.noise import NO_NOISE, NormalNoise, Single

LAYOUT = Layout(
    lanes=16, group=2, slots=8, pieces=4, piece=5, shared=0, beginnings=3, capacity=Capacity(0, 0)
)


def forms(tree):
    """Shapes and dtypes of all leaves."""
    return jax.tree.map(lambda leaf: (np.shape(leaf), np.asarray(leaf).dtype.name), tree)


def test_memory_asks_for_the_programs_that_a_stream_runs(monkeypatch):
    """The arguments of every call of a run, and those for which `needs` lowers the same functions:
    static ones equal, shapes and dtypes the same."""
    small = Engine(ARCHITECTURE, ByteTokenizer(), lanes=8, group=2, steps=4)
    prompts = [[1, 2, 3, 4, 5, 6, number] for number in range(7)]
    lengths = PromptLengths.of(prompts)
    assert lengths.shared == 6
    called, lowered = {}, {}
    real = {name: getattr(device, name) for name in ("fill", "decode", "assign")}

    class Recorder:
        def __init__(self, name):
            self.name = name

        def __call__(self, *given):
            called.setdefault(self.name, []).append(described(given))
            return real[self.name](*given)

        def lower(self, *given):
            lowered.setdefault(self.name, []).append(described(given))
            return real[self.name].lower(*given)

    def described(given):
        program, *arrays = given
        shapes = [
            (np.shape(leaf), jax.dtypes.canonicalize_dtype(leaf.dtype).name)
            if hasattr(leaf, "dtype")
            else "number"
            for leaf in jax.tree.leaves(arrays)
        ]
        return program, shapes

    for name in real:
        monkeypatch.setattr(device, name, Recorder(name))
    members = population()
    small.generate(members, prompts, Jobs.grid(members.size, 7), SAMPLING, prompt_lengths=lengths)
    abstract = jax.eval_shape(lambda: params())
    small.needs(members.noise, abstract, SAMPLING, lengths, members.size, prompts=7)
    assert set(called) == set(lowered) == set(real)
    for name, calls in called.items():
        assert all(call in lowered[name] for call in calls), name


def test_an_empty_table_is_padding_alone():
    table = waiting_table(6)
    assert (table.direction == -1).all() and table.job.shape == (6, 4)
    filled = waiting_table(
        6, [3, 4], [7, 8], [9, 9], [[0, 1, 2, 3], [4, 5, 6, 7]], [0, 1], [5, 6], [True, False], [0.5, -0.5]
    )
    assert forms(table) == forms(filled)
    assert filled.direction.tolist() == [3, 4, -1, -1, -1, -1] and filled.slot.tolist() == [7, 8, 0, 0, 0, 0]
    assert filled.job[1].tolist() == [4, 5, 6, 7] and filled.final.tolist() == [True] + 5 * [False]
    assert filled.scale.tolist() == [0.5, -0.5, 0, 0, 0, 0]


def test_padding_goes_nowhere():
    pieces = empty_pieces(LAYOUT)
    assert (np.asarray(pieces.slot) == 11).all() and pieces.tokens.shape == (4, 5)  # 8 + 3: out of range
    layout = Layout(
        lanes=64, group=2, slots=8, pieces=4, piece=5, shared=0, beginnings=0, capacity=Capacity(0, 0)
    )
    groups, directions = padded_groups(layout, [9], [2])
    assert groups.tolist() == [9, 32, 32, 32] and directions.tolist() == [2, 0, 0, 0]


@pytest.mark.parametrize(
    ("readers", "texts", "lengths", "expected"),
    [
        (12, 96, PromptLengths(40, 11), (10, 12)),  # two members to a group of 2 in 32 lanes: 32, but for 12
        (12, 12, PromptLengths(40, 11), (0, 0)),  # a prompt for each member: nothing is read twice
        (12, 96, PromptLengths(40, 4), (0, 0)),  # less than a piece in common
        (500, 4000, PromptLengths(40, 5), (5, 32)),
    ],
)
def test_what_all_prompts_share_is_kept_for_as_many_members_as_come_up(readers, texts, lengths, expected):
    noise = NormalNoise(0, 1, PERTURBED)
    layout = engine().layout(noise, lengths, [SAMPLING], 5, readers, texts)
    assert (layout.shared, layout.beginnings) == expected
    assert (layout.group, layout.groups) == (2, 16)
    assert engine().layout(NO_NOISE, lengths, [SAMPLING], 5, readers, texts).groups == 1


def test_the_parts_add_up_for_several_streams():
    abstract = jax.eval_shape(lambda: params())
    lengths = PromptLengths(11, 0)

    def parts(streams, noise, **changes):
        one = Engine(ARCHITECTURE, ByteTokenizer(), lanes=8 * streams, group=2, streams=streams, steps=4)
        needs = one.needs(noise, abstract, SAMPLING, lengths, population=12, prompts=3)
        return {need.name: need.bytes for need in needs}

    one, two = parts(1, population().noise), parts(2, population().noise)
    shared = "weights as the engine reads them"
    assert two.pop(shared) == one.pop(shared) > 0  # streams of a device read the same weights
    assert two == {name: 2 * size for name, size in one.items()} and min(one.values()) > 0
    assert one["logits"] == 8 * 256 * 4


# What others know of an engine


def test_the_engine_has_all_that_the_protocol_names():
    """`mypy` compares the types; here the names and arguments."""
    names = [name for name in vars(Generator) if not name.startswith("_")]
    assert "generate" in names and "receive" in names
    one = engine()
    for name in names:
        assert hasattr(one, name), name
    ours, theirs = (inspect.signature(kind.generate).parameters for kind in (Engine, Generator))
    assert {name: p.default for name, p in ours.items()} == {name: p.default for name, p in theirs.items()}


def test_an_engine_describes_itself():
    one, device_kind = engine(), jax.devices()[0].device_kind
    assert one.describe() == device_kind and one.chosen == {"lanes": 32, "streams": 1}
    several = Engine(ARCHITECTURE, ByteTokenizer(), lanes=32, group=2, devices=jax.devices()[:1] * 3)
    assert several.describe() == f"3 x {device_kind}"
    made = device.no_noise(one.program(population().noise, params(), SAMPLING), one.lanes // one.group)
    assert one.noise_bytes(population().noise, params()) == sum(leaf.nbytes for leaf in jax.tree.leaves(made))
    assert one.noise_bytes(NO_NOISE, params()) == 0


def test_one_maker_settles_the_number_of_streams():
    made = make_engine(ARCHITECTURE, ByteTokenizer(), params(), 256, 4)
    assert made.streams == room.default_streams(params(), 256, 4)
    assert make_engine(ARCHITECTURE, ByteTokenizer(), params(), 256, 4, streams=8).streams == 8
    assert make_engine(ARCHITECTURE, ByteTokenizer(), params(), 256, 4, streams=0).streams == made.streams
    large = jax.ShapeDtypeStruct((32 << 20,), jnp.float32)
    assert room.default_streams(large, 256, 4) == 1


def test_a_history_that_is_shared_is_known_to_both_engines():
    """The second engine is told by the first how long completions were, and writes the same texts."""
    history = LengthHistory()
    prompts = [[1, 2], [3, 4]]
    kept = {"lanes": 32, "group": 2, "steps": 4}
    first = Engine(ARCHITECTURE, ByteTokenizer(), history=history, **kept)
    second = Engine(ARCHITECTURE, ByteTokenizer(), history=history, **kept)
    names = [hash(tuple(prompt)) for prompt in prompts]
    assert np.isnan(history.means(names)).all()
    jobs, members = Jobs.grid(1, 2, 3), Single(params())
    found = first.generate(members, prompts, jobs, SAMPLING)
    np.testing.assert_allclose(history.means(names), found.lengths.reshape(2, 3).mean(1))
    assert second.generate(members, prompts, jobs, SAMPLING).texts == found.texts
    assert np.isnan(Engine(ARCHITECTURE, ByteTokenizer()).history.means(names)).all()  # of its own
