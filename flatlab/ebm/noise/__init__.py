"""Noise distributions q: what a model of unnormalised density is contrasted with."""

from flatlab.ebm.noise.base import Noise, NoiseLike, check_noise, draw
from flatlab.ebm.noise.box import BoxNoise
from flatlab.ebm.noise.cached import CachedNoise
from flatlab.ebm.noise.defensive import DefensiveNoise
from flatlab.ebm.noise.flow import FlowNoise
from flatlab.ebm.noise.gaussian import GaussianNoise
from flatlab.ebm.noise.gmm import GMMNoise
from flatlab.ebm.noise.student import StudentNoise

__all__ = [
    "BoxNoise",
    "CachedNoise",
    "DefensiveNoise",
    "FlowNoise",
    "GMMNoise",
    "GaussianNoise",
    "Noise",
    "NoiseLike",
    "StudentNoise",
    "check_noise",
    "draw",
]
