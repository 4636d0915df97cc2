"""Two networks against each other: what two rates do to the dynamics, and what a distance between image sets sees.

    path = gan.quadratic_game(1.0, 2.0, 0.5, lr_g=0.001, lr_d=0.003, n=20_000)   # two time scales
    gan.critical_ratio(1.0, 2.0, 0.5)                                            # 2: above it the game settles
    game = gan.Game(discriminator, generator, loss_d, loss_g)
    gan.leading_eigenvalues(game.field, game.point, scale=game.rates(3.0, 1.0))  # a real part > 0: these rates do not
    worse = gan.disturb(images, "swirl", 2.0)                                    # an FID should rise

`saddle` and `network_flow` are the paper's own toys, `adam_path` and `hbf_ode` its heavy ball, `dip` and `equal_wells`
the potentials that the ball meets.
"""

from flatlab.gan.disturb import LEVELS, Steps, disturb, monotone
from flatlab.gan.game import Game, leading_eigenvalues
from flatlab.gan.heavy_ball import (
    adam_path,
    friction,
    hbf_ode,
    overshoot_threshold,
    stability_threshold,
    time_step,
)
from flatlab.gan.toys import (
    OPTIMUM,
    critical_ratio,
    game_eigenvalues,
    network_flow,
    quadratic_game,
    saddle,
    saddle_deviation,
)
from flatlab.gan.wells import Wells, dip, equal_wells

__all__ = [
    "LEVELS",
    "OPTIMUM",
    "Game",
    "Steps",
    "Wells",
    "adam_path",
    "critical_ratio",
    "dip",
    "disturb",
    "equal_wells",
    "friction",
    "game_eigenvalues",
    "hbf_ode",
    "leading_eigenvalues",
    "monotone",
    "network_flow",
    "overshoot_threshold",
    "quadratic_game",
    "saddle",
    "saddle_deviation",
    "stability_threshold",
    "time_step",
]
