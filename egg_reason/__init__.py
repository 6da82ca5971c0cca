"""Fine-tune language models on verifiable reasoning rewards with forward passes only.

    from egg_reason import models
    from egg_reason.config import TrainConfig
    from egg_reason.train import train

    summary = train(TrainConfig.of(steps=20, seed=1), "runs/mine")
    model = models.load("runs/mine")

The parts, from the bottom up: `models`, `perturb` (weights that carry perturbations), `engine` (completions),
`rewards`, `tasks`, `es` (the estimator), `evals`, `train`. Nothing is imported here: rewards run in processes
that should not load JAX.
"""
