"""Energy-based models: unnormalized densities, and the losses that train them by noise or by sampling.

A model is a callable f: (N, ...) -> (N,), the log of an unnormalized density; p(x) = exp f(x) / Z, energy E = -f. A
constant added to f changes no density, so that log Z drifts freely: it is estimated and reported, never assumed.

    q = GaussianNoise.fit(x)
    loss = MECOLoss(q, gamma=0.1)                          # or NCELoss, ExpNCELoss, SNLLoss, CDLoss, PCDLoss, DSMLoss
    nets = fit_seeds(network, Points(x), objective(loss, base=q, cap=6.0), recipe, seeds=range(5))
    model = TiltedModel(nets[0], q, cap=6.0)               # f = log q + g
    nll_snis(model, x_test, q, 100_000)                    # refuses if q does not cover the model

`gaussian` has the closed forms of the one-dimensional case. A loss is one file; a noise is one file in `noise/`.
"""

from flatlab.ebm import gaussian
from flatlab.ebm.base import EnergyLoss, LossOutput, NoiseLoss
from flatlab.ebm.contrastive import CDLoss, PCDLoss
from flatlab.ebm.dsm import DSMLoss
from flatlab.ebm.evaluate import (
    NLL,
    GridLogZ,
    LogZ,
    TooFewDraws,
    ais,
    evaluated,
    log_z_grid,
    log_z_of,
    log_z_snis,
    nll_snis,
    ood_auroc,
)
from flatlab.ebm.exp_nce import ExpNCELoss
from flatlab.ebm.meco import Decay, MECOLoss
from flatlab.ebm.nce import NCELoss
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
from flatlab.ebm.objective import EnergyObjective, objective
from flatlab.ebm.snl import SNLLoss
from flatlab.ebm.tilted import TiltedModel
from flatlab.ebm.whitening import Whitening, dequantize
from flatlab.optim import NormalizedSGD
from flatlab.samplers import Chains, mala

__all__ = [
    "NLL",
    "BoxNoise",
    "CDLoss",
    "CachedNoise",
    "Chains",
    "DSMLoss",
    "Decay",
    "DefensiveNoise",
    "EnergyLoss",
    "EnergyObjective",
    "ExpNCELoss",
    "FlowNoise",
    "GMMNoise",
    "GaussianNoise",
    "GridLogZ",
    "LogZ",
    "LossOutput",
    "MECOLoss",
    "NCELoss",
    "Noise",
    "NoiseLoss",
    "NormalizedSGD",
    "PCDLoss",
    "SNLLoss",
    "StudentNoise",
    "TiltedModel",
    "TooFewDraws",
    "Whitening",
    "ais",
    "check_noise",
    "dequantize",
    "draw",
    "evaluated",
    "gaussian",
    "log_z_grid",
    "log_z_of",
    "log_z_snis",
    "mala",
    "nll_snis",
    "objective",
    "ood_auroc",
]
