"""Training: one optimizer step, and the loops over it.

    recipe = Recipe(epochs=30, batch_size=64, lr=3e-3)
    network = lambda seed: build("mlp", (1, 8, 8), 10, seed=seed)
    models = fit_seeds(network, train_set, objective, recipe, seeds=range(5))

An objective is any function `objective(model, x, y, step_fraction) -> loss`, the mean over the samples of the batch, or
an `Objective`, such as `flatlab.defenses.make` returns. Several seeds of a small network train side by side as one
module (`flatlab.models.stacked`), each with its own initial weights, batch order and noise.

What is not one network on one data set (two players, rollouts, a sampler) is a loop of its own over a `Stepper`.

    found = sweep(score, {"adam": {"lr": [1e-3, 1e-2]}}, seeds=[0, 1], extend=4)
    models = fit_seeds(..., seeds=found.fresh(range(10, 15)))

`sweep` tunes the options of each method on seeds of their own, with a grid that grows until the optimum is inside it.
"""

from flatlab.train.augment import crop_flip
from flatlab.train.callbacks import Callback, FirstBelow, Recorder, TrainingState
from flatlab.train.checkpoint import load_checkpoint, resume_training, save_checkpoint, save_training
from flatlab.train.content import fingerprint
from flatlab.train.continual import fit_continual
from flatlab.train.descend import Descent, descend
from flatlab.train.device import operations, pick_device, seconds
from flatlab.train.evaluate import Evaluation, accuracy, distance, evaluate_loss, evaluate_samples
from flatlab.train.loop import History, Recipe, fit
from flatlab.train.objective import Objective, cross_entropy, next_token
from flatlab.train.schedules import Ramp, schedule
from flatlab.train.seeds import fit_seeds
from flatlab.train.stepper import Stepper, TrainingDiverged
from flatlab.train.sweep import Sweep, Trial, sweep

__all__ = [
    "Callback",
    "Descent",
    "Evaluation",
    "FirstBelow",
    "History",
    "Objective",
    "Ramp",
    "Recipe",
    "Recorder",
    "Stepper",
    "Sweep",
    "TrainingDiverged",
    "TrainingState",
    "Trial",
    "accuracy",
    "crop_flip",
    "cross_entropy",
    "descend",
    "distance",
    "evaluate_loss",
    "evaluate_samples",
    "fingerprint",
    "fit",
    "fit_continual",
    "fit_seeds",
    "load_checkpoint",
    "next_token",
    "operations",
    "pick_device",
    "resume_training",
    "save_checkpoint",
    "save_training",
    "schedule",
    "seconds",
    "sweep",
]
