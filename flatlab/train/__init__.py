"""The one supervised training loop, for one seed or several.

    recipe = Recipe(epochs=30, batch_size=64, lr=3e-3)
    network = lambda seed: build("mlp", (1, 8, 8), 10, seed=seed)
    models = fit_seeds(network, train_set, objective, recipe, seeds=range(5))

An objective is any callable `objective(model, x, y, step_fraction) -> loss`, the mean over the samples of the batch;
`flatlab.defenses.make` returns such objects. Several seeds of a small network train side by side as one module
(`flatlab.models.stacked`), each with its own initial weights, batch order and noise.
"""

from flatlab.train.augment import crop_flip
from flatlab.train.callbacks import Callback, TrainingState
from flatlab.train.checkpoint import load_checkpoint, save_checkpoint
from flatlab.train.device import pick_device
from flatlab.train.loop import History, Recipe, TrainingDiverged, accuracy, cross_entropy, fit
from flatlab.train.schedules import schedule
from flatlab.train.seeds import fit_seeds

__all__ = [
    "Callback",
    "History",
    "Recipe",
    "TrainingDiverged",
    "TrainingState",
    "accuracy",
    "crop_flip",
    "cross_entropy",
    "fit",
    "fit_seeds",
    "load_checkpoint",
    "pick_device",
    "save_checkpoint",
    "schedule",
]
