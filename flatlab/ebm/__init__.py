"""Learning of unnormalised densities: noise distributions, models tilted from them, and whitening."""

from flatlab.ebm.noise import (
    BoxNoise,
    CachedNoise,
    DefensiveNoise,
    FlowNoise,
    GaussianNoise,
    GMMNoise,
    Noise,
    StudentNoise,
    check_noise,
    draw,
)
from flatlab.ebm.tilted import TiltedModel
from flatlab.ebm.whitening import Whitening, dequantize

__all__ = [
    "BoxNoise",
    "CachedNoise",
    "DefensiveNoise",
    "FlowNoise",
    "GMMNoise",
    "GaussianNoise",
    "Noise",
    "StudentNoise",
    "TiltedModel",
    "Whitening",
    "check_noise",
    "dequantize",
    "draw",
]
