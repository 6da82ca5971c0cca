"""A family that a test registers goes through the real engine, although its state has a capacity, rows on the
last axis and -1 for empty, and its parameters are dictionaries with an int8 matrix and a tied head."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import stub_family
from helpers.stub_family import EMPTY, StubFamily

from egg_reason import models
from egg_reason.algorithms.evolution import EvolutionStrategy
from egg_reason.algorithms.grpo import GRPO
from egg_reason.algorithms.objective import Objective
from egg_reason.algorithms.state import OPTIMISERS, schedule
from egg_reason.engine import Engine, Jobs, PromptLengths, Sampling
from egg_reason.engine import lanes as device
from egg_reason.models.tokenizers import ByteTokenizer
from egg_reason.perturb.noise import Members, NormalNoise
from egg_reason.perturb.paths import named
from egg_reason.perturb.trainable import trained

FAMILY = StubFamily()
BEGINNING = [3, 1, 4, 1, 5, 9, 2, 6, 5, 35, 8]
PROMPTS = [[*BEGINNING, 7], [*BEGINNING, 9, 79], [*BEGINNING, 3, 2, 38, 46, 26], [*BEGINNING, 43, 38]]
LONGEST = max(map(len, PROMPTS))
POPULATION, SIGMA, RANK, MOST = 6, 0.3, 2, 9
JOBS = Jobs.grid(POPULATION, len(PROMPTS))


@functools.cache
def params():
    return stub_family.random_params(FAMILY, 1)


def population():
    noise = NormalNoise(5, RANK, FAMILY.parameters())
    return Members(jax.tree.map(jnp.asarray, params()), noise, epoch=2, sigma=SIGMA, size=POPULATION)


@functools.cache
def dense_weights(member: int):
    """The member's weights, written out."""
    members = population()
    shapes = members.noise.shapes(members.params)
    drawn = members.noise.draw(shapes, members.epoch, np.array([members.direction(member)]))
    weights = jax.tree.map(np.array, members.params)
    for name, (a, b) in drawn.items():
        move = np.asarray(a[0], np.float64).T @ np.asarray(b[0], np.float64) / np.sqrt(RANK)
        named(weights)[name][...] += np.float32(members.scale(member) * move)
    return jax.tree.map(jnp.asarray, weights)


read_token = jax.jit(FAMILY.forward)


def direct(member: int, prompt: int, think: int | None = None) -> list[int]:
    """Greedy, one token at a time on one row with room for more than is needed."""
    weights, state, tokenizer = dense_weights(member), FAMILY.init_state(1, 64, jnp.float32), ByteTokenizer()
    waiting, written = list(PROMPTS[prompt]), []
    while True:
        for token in waiting:
            hidden, state = read_token(weights, jnp.array([[token]]), state)
        chosen = int((np.asarray(hidden)[0, -1] @ np.asarray(weights["table"]).T).argmax())
        written, waiting = [*written, chosen], [chosen]
        if chosen in tokenizer.ends or len(written) == MOST:
            return written
        if len(written) == think:  # none of these texts ends a thought by itself
            tag = tokenizer.encode("</think>")[: MOST - len(written) - 1]
            written, waiting = [*written, *tag], [chosen, *tag]


def generate(jobs=JOBS, think=None, lanes=4):
    engine = Engine(FAMILY, ByteTokenizer(), lanes=lanes, group=2, refill=2, steps=4)
    sampling = Sampling(max_tokens=MOST, temperature=0, think_tokens=think)
    lengths = PromptLengths(LONGEST, len(BEGINNING))
    return engine.generate(population(), PROMPTS, jobs, sampling, prompt_lengths=lengths)


@pytest.mark.parametrize("think", [None, 2])
def test_what_it_writes_is_what_a_direct_loop_writes(think, monkeypatch):
    """Pieces of 5 tokens: beginnings are shared, texts take several pieces, slots and lanes are used again.
    With a thought's budget the text up to the forced tag is read into a slot, which must have room for it."""
    monkeypatch.setattr("egg_reason.engine.layout.PIECE", 5)
    result = generate(think=think)
    expected = [
        direct(int(member), int(prompt), think)
        for member, prompt in zip(JOBS.member, JOBS.prompt, strict=True)
    ]
    assert [result.tokens[job, : result.lengths[job]].tolist() for job in range(len(JOBS))] == expected
    lengths = {len(tokens) for tokens in expected}
    assert len({tuple(tokens) for tokens in expected}) > len(JOBS) // 2 and (think or len(lengths) > 2)
    if think is None:
        assert result.prompt_tokens < sum(len(PROMPTS[prompt]) for prompt in JOBS.prompt)


def test_states_are_as_large_as_the_longest_text():
    plain, thinks = Sampling(max_tokens=9), Sampling(max_tokens=7, think_tokens=3)
    assert device.Capacity.of(16, [plain]) == (25, 16)
    assert device.Capacity.of(16, [plain, thinks]) == (25, 25)
    state = FAMILY.init_state(3, 25, jnp.float32)
    assert state.nbytes == 3 * FAMILY.bytes_per_row(25, jnp.float32)


def test_pieces_are_read_into_rows():
    slots = FAMILY.init_state(4, 5, jnp.float32)
    read = functools.partial(FAMILY.read_into, jax.tree.map(jnp.asarray, params()))
    first = read(
        slots,
        np.array([9, 9, 9]),  # out of range: all begin empty
        np.array([2, 0, 9]),  # and the last is dropped
        np.array([[5, 6, 1], [8, 1, 1], [7, 7, 7]]),
        np.array([2, 1, 3]),
    )
    rows = np.full((2, 5, 4), EMPTY)
    rows[:, :2, 2] = [[5, 6], [6, 7]]
    rows[:, 0, 0] = [8, 9]
    np.testing.assert_array_equal(first, rows)

    second = read(
        first,
        np.array([2, 2, 0]),
        np.array([1, 2, 0]),
        np.array([[4, 255], [1, 1], [1, 1]]),
        np.array([2, 0, 0]),
    )
    rows[:, :4, 1] = [[5, 6, 4, 255], [6, 7, 5, 0]]
    np.testing.assert_array_equal(second, rows)  # the rows of length 0 stand as they stood

    copied = read(second, np.array([1]), np.array([3]), np.array([[1]]), np.array([0]))
    rows[:, :, 3] = rows[:, :, 1]
    np.testing.assert_array_equal(copied, rows)


def test_a_row_of_length_0_keeps_its_state():
    state = FAMILY.init_state(2, 4, jnp.float32).at[:, 0].set(3)
    _, after = FAMILY.forward(dense_weights(0), np.array([[7], [7]]), state, np.array([0, 1]))
    np.testing.assert_array_equal(after[:, :, 0], state[:, :, 0])
    np.testing.assert_array_equal(after[:, :2, 1], [[3, 7], [3, 8]])


def test_a_lane_is_entered_from_a_slot_of_smaller_capacity():
    lanes = jnp.arange(2 * 5 * 3).reshape(2, 5, 3)
    slots = 100 + jnp.arange(2 * 2 * 4).reshape(2, 2, 4)
    entered = FAMILY.enter(lanes, jnp.array(1), slots, jnp.array(3))
    np.testing.assert_array_equal(entered[:, :, [0, 2]], lanes[:, :, [0, 2]])
    np.testing.assert_array_equal(entered[:, :, 1], [[103, 107, -1, -1, -1], [111, 115, -1, -1, -1]])


def test_its_files_are_read_once_it_is_registered(tmp_path):
    path = stub_family.write(tmp_path / "small.npz", seed=1)
    with pytest.raises(ValueError, match=r"small\.npz: a zip archive with 0 data\.pkl records"):
        models.load(path)
    with stub_family.registered():
        model, peeked = models.load(path), models.peek(path)
        models.save(model, tmp_path / "again.npz")
        again = models.load(tmp_path / "again.npz")
    assert (model.name, model.family, model.tokenizer.name) == ("small", FAMILY, "byte")
    assert jax.tree.map(lambda x: (x.shape, x.dtype), model.params) == jax.tree.map(
        lambda x: (x.shape, x.dtype), peeked.params
    )
    assert model.params["layers"][1]["mix"].dtype == np.int8
    for name, leaf in named(params()).items():
        np.testing.assert_array_equal(named(again.params)[name], leaf)
    assert again.fingerprint == model.fingerprint == FAMILY.fingerprint(params())
    other = jax.tree.map(np.copy, params())
    other["layers"][1]["mix"][-1, -1] ^= 1
    assert FAMILY.fingerprint(other) != model.fingerprint
    with pytest.raises(ValueError, match="format must be npz, not 'pth'"):
        models.save(model, tmp_path / "x.pth", "pth")
    assert len(models.FAMILIES) == 2  # as before


def test_a_run_keeps_its_model_in_the_format_of_its_family(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / models.RUN_CONFIG).write_text("")
    assert models.run_model(run) is None and models.run_model_name(FAMILY) == "model.npz"
    stub_family.write(run / "model.npz", seed=3)
    with stub_family.registered():
        assert models.load(run).family == FAMILY and models.load(run).name == "run"


def test_evolution_moves_its_floats_and_leaves_its_integers_alone():
    rate = schedule("constant", 0.1, None)
    strategy = EvolutionStrategy(FAMILY.parameters(), POPULATION, RANK, rate, rate)
    state = strategy.init(params())
    members = strategy.ask(state)
    assert members.params["layers"][0]["mix"].dtype == np.int8
    after, update = strategy.tell(state, np.arange(POPULATION, dtype=np.float32)[:, None])
    assert update["update_rms"] > 0
    for name, leaf in named(after.params).items():
        changed = (np.asarray(leaf) != named(params())[name]).any()
        assert (leaf.dtype, changed) == ((np.int8, False) if name.endswith("mix") else (np.float32, True))


def test_grpo_is_refused_in_the_familys_words():
    with pytest.raises(
        ValueError, match="grpo needs gradients: the int8 matrices of the stub family have no"
    ):
        GRPO(
            family=FAMILY,
            parameters=trained(FAMILY.parameters(), ["matrices"]),
            samples=2,
            max_tokens=4,
            learning_rate=schedule("constant", 0.1, None),
            optimiser=OPTIMISERS["sgd"],
            objective=Objective(),
        )
