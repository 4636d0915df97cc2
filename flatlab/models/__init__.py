"""Small networks of the kinds that the papers use, and several seeds of one of them as a single module.

Every image classifier maps (N, C, H, W) in [0, 1] to logits (N, classes); normalisation is a layer of the model, so
that an attack's radius is always in pixel units. A language model maps codes of characters (N, T) to logits
(N, T, symbols) of the next ones.
"""

from flatlab.models.char_gpt import CharGPT, char_gpt
from flatlab.models.char_lstm import CharLSTM, char_lstm
from flatlab.models.layers import MapLogits, Normalize
from flatlab.models.mlp import mlp
from flatlab.models.registry import available, build
from flatlab.models.resnet import preact_resnet18, wide_resnet
from flatlab.models.small_cnn import small_cnn
from flatlab.models.stacked import Stacked, stack_models, stackable, unstack

__all__ = [
    "CharGPT",
    "CharLSTM",
    "MapLogits",
    "Normalize",
    "Stacked",
    "available",
    "build",
    "char_gpt",
    "char_lstm",
    "mlp",
    "preact_resnet18",
    "small_cnn",
    "stack_models",
    "stackable",
    "unstack",
    "wide_resnet",
]
