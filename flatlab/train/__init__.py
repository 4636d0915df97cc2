"""The one supervised training loop, for one seed or several.

    recipe = Recipe(epochs=30, batch_size=64, lr=3e-3)
    network = lambda seed: build("mlp", (1, 8, 8), 10, seed=seed)
    models = fit_seeds(network, train_set, objective, recipe, seeds=range(5))

An objective is any callable `objective(model, x, y, step_fraction) -> loss`, the mean over the samples of the batch;
`flatlab.defenses.make` returns such objects. Several seeds of a small network train side by side as one module
(`flatlab.models.stacked`), each with its own initial weights, batch order and noise.

    found = sweep(score, {"adam": {"lr": [1e-3, 1e-2]}}, seeds=[0, 1], extend=4)
    models = fit_seeds(..., seeds=found.fresh(range(10, 15)))

`sweep` tunes the options of each method on seeds of their own, with a grid that grows until the optimum is inside it.
"""

from flatlab.train.augment import crop_flip
from flatlab.train.callbacks import Callback, FirstBelow, Recorder, TrainingState, cancellation
from flatlab.train.checkpoint import load_checkpoint, save_checkpoint
from flatlab.train.device import operations, pick_device, seconds
from flatlab.train.evaluate import Evaluation, accuracy, distance, evaluate_loss
from flatlab.train.loop import History, Recipe, TrainingDiverged, cross_entropy, fit, next_token
from flatlab.train.online import Stream, fit_online, fit_streams, permuted_stream
from flatlab.train.schedules import Ramp, schedule
from flatlab.train.seeds import fit_seeds
from flatlab.train.sweep import Sweep, Trial, sweep

__all__ = [
    "Callback",
    "Evaluation",
    "FirstBelow",
    "History",
    "Ramp",
    "Recipe",
    "Recorder",
    "Stream",
    "Sweep",
    "TrainingDiverged",
    "TrainingState",
    "Trial",
    "accuracy",
    "cancellation",
    "crop_flip",
    "cross_entropy",
    "distance",
    "evaluate_loss",
    "fit",
    "fit_online",
    "fit_seeds",
    "fit_streams",
    "load_checkpoint",
    "next_token",
    "operations",
    "permuted_stream",
    "pick_device",
    "save_checkpoint",
    "schedule",
    "seconds",
    "sweep",
]
