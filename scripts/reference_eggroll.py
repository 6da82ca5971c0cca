"""The reference implementation of EGGROLL, HyperscaleES (github.com/ESHyperscale/HyperscaleES, GPL-3.0), for
`bench_reference.py`.

None of its code is here: it is imported from a checkout outside this repository (written for its commit
b77f7d6) and called as its `llm_experiments/general_do_evolution.py` does: its reader for our weights, its
noise, its loop over the tokens of a text, and `jit(shard_map(vmap))` around that. The loop feeds the prompt
token by token, draws the noise anew at each and never stops.
"""

import contextlib
import importlib
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, PartitionSpec

from egg_reason.models.rwkv7.layout import disassemble

MODULES = (
    "hyperscalees.models.llm.rwkv7",
    "hyperscalees.models.common",
    "hyperscalees.noiser",
    "llm_experiments.utils",
)


def load(checkout: Path) -> tuple:
    """Its modules of `MODULES`: model, tree keys, noise, generation loop.

    Two things stand between them and this environment. The `__init__` files of three packages import agents
    and tokenizers that generation does not touch (gymnax, distrax, transformers): empty packages stand in for
    them. And it marks values as varying over devices by `jax.lax.pvary`, which jax has renamed.
    """
    if not (checkout / "llm_experiments" / "utils.py").is_file():
        raise SystemExit(
            f"--checkout must be a clone of https://github.com/ESHyperscale/HyperscaleES, not {checkout}"
        )
    for name in ("hyperscalees", "hyperscalees.models", "hyperscalees.models.llm"):
        package = types.ModuleType(name)
        package.__path__ = [str(checkout.joinpath("src", *name.split(".")))]
        sys.modules[name] = package
    sys.path.append(str(checkout))
    if not hasattr(jax.lax, "pvary"):
        jax.lax.pvary = lambda x, axes: jax.lax.pcast(x, axes, to="varying")  # type: ignore[attr-defined]
    try:
        importlib.import_module("torch")  # its reader of checkpoints takes torch's tensors
        return tuple(importlib.import_module(name) for name in MODULES)
    except ModuleNotFoundError as error:
        raise SystemExit(
            f"HyperscaleES needs {error.name}, which is not installed: run `make reference`, or install it"
            " by pip"
        ) from None


class Reference:
    """Our weights in its model, under noise of one sigma (rank 1, matrices of the blocks only, new every
    step) or under none.

    loaded: what `load` returned. temperature: 0 is greedy. In what follows, noisy chooses between its noise
    classes `eggroll` and `noop`, and members [J] number the perturbations: 2k and 2k + 1 are an antithetic
    pair.
    """

    def __init__(self, loaded: tuple, params, sigma: float, temperature: float):
        import torch

        self.models, common, noisers, self.loops = loaded
        self.temperature = temperature
        tensors = {
            key: torch.from_numpy(np.array(array))
            for key, array in disassemble(params, "pth", block0_has_v=True)
        }
        with contextlib.redirect_stdout(sys.stderr):
            self.config, self.params, scan_map, _ = self.models.BaseRWKV.load_from_torch(
                tensors, None, dtype=jnp.float32
            )
        self.keys = common.simple_es_tree_key(self.params, jax.random.key(0), scan_map)
        self.noisers = {True: noisers.all_noisers["eggroll"], False: noisers.all_noisers["noop"]}
        settings = {"group_size": 0, "freeze_nonlora": True, "noise_reuse": 1, "rank": 1}
        self.noise = {
            noisy: noiser.init_noiser(self.params, sigma, 1e-5, **settings)
            for noisy, noiser in self.noisers.items()
        }

    def logits(self, text: np.ndarray, members: np.ndarray, noisy: bool) -> np.ndarray:
        """[J, T, V] of one text."""
        model, (frozen, noise) = self.models.BaseRWKV, self.noise[noisy]
        start = model.default_state(self.params, self.config)

        def one(member, params):
            return model.forward(
                self.noisers[noisy], frozen, noise, self.config, params, self.keys, (0, member), text, start
            )[0]

        return np.asarray(jax.jit(jax.vmap(one, (0, None)))(members, self.params))

    def compiled(self, model: str, lanes: int, tokens: int, noisy: bool):
        """A function from (texts int32 [lanes, tokens], members [lanes], step) to texts, where its model
        wrote the tokens that were 0.

        model: the name of one of its classes. The mesh's axis is of the kind that all were when it was
            written.
        """
        frozen, noise = self.noise[noisy]
        everywhere, sharded = PartitionSpec(), PartitionSpec("data")
        mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:1])
        with contextlib.redirect_stdout(sys.stderr):
            thread = self.loops.build_generate_thread(
                getattr(self.models, model),
                self.noisers[noisy],
                frozen,
                self.config,
                self.keys,
                jax.random.key(1),
                self.temperature,
            )
            batch = jax.vmap(thread, in_axes=(None, None, 0, 0, None))
            specs = (everywhere, everywhere, sharded, sharded, everywhere)
            program = jax.jit(jax.shard_map(batch, mesh=mesh, in_specs=specs, out_specs=sharded))
            lowered = program.lower(
                noise, self.params, np.zeros((lanes, tokens), np.int32), np.zeros(lanes, int), 0
            )
        call = lowered.compile()
        return lambda texts, members, step: np.asarray(call(noise, self.params, texts, members, step))
