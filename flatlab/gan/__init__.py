"""Generative adversarial networks with a learning rate for each player, and what the theory of two rates rests on.

    players = TTUR(MLPGenerator(8), MLPDiscriminator(8), lr_g=5e-3, lr_d=1e-2)   # real images (N, C, H, W) in [-1, 1]
    losses = players.step(real)
    images = to_uint8(players.sample(1000))                                      # what features are taken of
    rows = lr_grid(make_players, real, pairs, seeds=range(3), at=[500, 1000], score=score).rows

    quadratic_game(1.0, 2.0, 0.5, lr_g=0.001, lr_d=0.003, n=20_000)              # two time scales: a path
    critical_ratio(1.0, 2.0, 0.5)                                                # 2: above it the game settles
    leading_eigenvalues(game.field, game.point, scale=game.rates(3.0, 1.0))      # of a `Game` of two networks
    disturb(images, "swirl", 2.0)                                                # a FID should rise

`saddle` and `network_flow` are the paper's own toys, `adam_path` and `hbf_ode` its heavy ball, `dip` and `equal_wells`
potentials for the ball.
"""

from flatlab.gan.disturb import LEVELS, Steps, disturb, monotone
from flatlab.gan.game import Game, leading_eigenvalues
from flatlab.gan.grid import ARMS, Chosen, Grid, Players, best_pairs, lr_grid, select_then_test
from flatlab.gan.heavy_ball import (
    adam_path,
    friction,
    hbf_ode,
    overshoot_threshold,
    stability_threshold,
    time_step,
)
from flatlab.gan.losses import LOSSES, GanLoss
from flatlab.gan.penalties import gradient_penalty
from flatlab.gan.players import DCGANDiscriminator, DCGANGenerator, MLPDiscriminator, MLPGenerator
from flatlab.gan.residual import ResNetDiscriminator, ResNetGenerator
from flatlab.gan.text import MLPTextDiscriminator, MLPTextGenerator, TextDiscriminator, TextGenerator, one_hot
from flatlab.gan.toys import (
    OPTIMUM,
    critical_ratio,
    game_eigenvalues,
    network_flow,
    quadratic_game,
    saddle,
    saddle_deviation,
)
from flatlab.gan.ttur import TTUR, to_uint8
from flatlab.gan.wells import Wells, dip, equal_wells

__all__ = [
    "ARMS",
    "LEVELS",
    "LOSSES",
    "OPTIMUM",
    "TTUR",
    "Chosen",
    "DCGANDiscriminator",
    "DCGANGenerator",
    "Game",
    "GanLoss",
    "Grid",
    "MLPDiscriminator",
    "MLPGenerator",
    "MLPTextDiscriminator",
    "MLPTextGenerator",
    "Players",
    "ResNetDiscriminator",
    "ResNetGenerator",
    "Steps",
    "TextDiscriminator",
    "TextGenerator",
    "Wells",
    "adam_path",
    "best_pairs",
    "critical_ratio",
    "dip",
    "disturb",
    "equal_wells",
    "friction",
    "game_eigenvalues",
    "gradient_penalty",
    "hbf_ode",
    "leading_eigenvalues",
    "lr_grid",
    "monotone",
    "network_flow",
    "one_hot",
    "overshoot_threshold",
    "quadratic_game",
    "saddle",
    "saddle_deviation",
    "select_then_test",
    "stability_threshold",
    "time_step",
    "to_uint8",
]
