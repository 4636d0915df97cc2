"""Small networks of the kinds that the papers use, and several seeds of one of them as a single module.

Every image classifier maps (N, C, H, W) in [0, 1] to logits (N, classes); normalisation is a layer of the model, so
that an attack's radius is always in pixel units. A language model maps codes of characters (N, T) to logits
(N, T, symbols) of the next ones. A classifier of sentences maps embedded words (N, T, D) to logits (N, classes), and
its method `embed` makes those of codes of words (N, T). `FeatureNet` shows an image classifier as features and their
linear classifier.
"""

from flatlab.models.char_gpt import CharGPT, char_gpt
from flatlab.models.char_lstm import CharLSTM, char_lstm
from flatlab.models.cnn7 import cnn7
from flatlab.models.densenet import densenet
from flatlab.models.language import LanguageModel, response_logps, sample
from flatlab.models.layers import CentreNorm, FourierFeatures, MapLogits, Normalize, Residual
from flatlab.models.mlp import mlp
from flatlab.models.parts import FeatureNet
from flatlab.models.registry import available, build
from flatlab.models.resnet import preact_resnet18, wide_resnet
from flatlab.models.resnext import resnext
from flatlab.models.rounding import round_weights
from flatlab.models.sentence import SentenceModel
from flatlab.models.small_cnn import small_cnn
from flatlab.models.stacked import Stacked, stack_models, stackable, unstack
from flatlab.models.text_lstm import TextLSTM, text_lstm
from flatlab.models.text_mlp import TextMLP, text_mlp
from flatlab.models.text_transformer import TextTransformer, text_transformer

__all__ = [
    "CentreNorm",
    "CharGPT",
    "CharLSTM",
    "FeatureNet",
    "FourierFeatures",
    "LanguageModel",
    "MapLogits",
    "Normalize",
    "Residual",
    "SentenceModel",
    "Stacked",
    "TextLSTM",
    "TextMLP",
    "TextTransformer",
    "available",
    "build",
    "char_gpt",
    "char_lstm",
    "cnn7",
    "densenet",
    "mlp",
    "preact_resnet18",
    "resnext",
    "response_logps",
    "round_weights",
    "sample",
    "small_cnn",
    "stack_models",
    "stackable",
    "text_lstm",
    "text_mlp",
    "text_transformer",
    "unstack",
    "wide_resnet",
]
