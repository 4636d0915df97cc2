"""Samplers of densities known up to a constant, for many chains at once.

A density is a function f from points (N, ...) to its logs (N,), row by row; `generator` is a torch.Generator, or
SeedGenerators for rows that are one block a seed. The chains of `mala` leave exp f invariant; those of `langevin` do so
up to a bias that grows with the step; `annealed` weighs its samples, and gives the normalization constant. A
`ReplayBuffer` keeps chains from one training step to the next.

    samples = mala(f, x0, 1000, 0.1, generator=g).x
    log_z = annealed(f0, f1, x0, betas=1000, eps=0.1, generator=g).log_weights.logsumexp(0) - math.log(len(x0))
"""

from flatlab.samplers.annealing import Annealed, annealed
from flatlab.samplers.buffer import ReplayBuffer
from flatlab.samplers.draws import Generator, normal_like, uniform
from flatlab.samplers.langevin import langevin, langevin_step
from flatlab.samplers.mala import Chains, mala

__all__ = [
    "Annealed",
    "Chains",
    "Generator",
    "ReplayBuffer",
    "annealed",
    "langevin",
    "langevin_step",
    "mala",
    "normal_like",
    "uniform",
]
