"""What two players refuse: each error names the value, the bound and the cure."""

from typing import Any

import pytest
import torch
from torch import nn

from flatlab import gan
from flatlab.gan import TTUR

PAIR = (gan.MLPGenerator(8, 1, 3, 5), gan.MLPDiscriminator(8, 1, 5))
CONV = (gan.DCGANGenerator(8, 1, 3, 2), gan.DCGANDiscriminator(8, 1, 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr_g": 0.0}, "lr_g must be a finite number > 0, got 0.0"),
        ({"lr_d": -1.0}, "lr_d must be a finite number > 0, got -1.0"),
        ({"lr_d": float("nan")}, "lr_d must be a finite number > 0, got nan"),
        ({"lr_g": [0.1, 0.1]}, "lr_g must be one number or 1, one for each pair, got 2"),
        ({"seed": [1, 2]}, "seed must be one number or 1, one for each pair, got 2"),
        ({"n_critic": 0}, "n_critic must be an integer >= 1, got 0"),
        ({"loss": "wgan"}, "unknown loss 'wgan': choose one of ns, wgan-gp, hinge, rpgan; did you mean 'wgan-gp'"),
        (
            {"betas": (1.0, 0.9)},
            r"betas must be two numbers in \[0, 1\), got \(1.0, 0.9\); \(0.5, 0.999\) is usual",
        ),
        ({"betas": (0.5, -0.1)}, "betas must be two numbers"),
        ({"betas": (0.5,)}, "betas must be two numbers"),
        ({"ema": 1.0}, r"ema must be in \[0, 1\), got 1.0; 0.999 is usual"),
        ({"ema": -0.1}, r"ema must be in \[0, 1\)"),
        ({"loss": "wgan-gp", "gp": -1.0}, "gp must be a finite number >= 0"),
        ({"r1": -1.0}, "r1 must be a finite number >= 0"),
        ({"r2": float("inf")}, "r2 must be a finite number >= 0"),
    ],
)
def test_options_out_of_bounds(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TTUR(*PAIR, **({"lr_g": 0.1, "lr_d": 0.1} | options))


@pytest.mark.parametrize("pairs", [1, 2])
@pytest.mark.parametrize("options", [{"loss": "wgan-gp"}, {"r1": 1.0}, {"r2": 1.0}])
def test_penalties_with_batch_normalisation(options: dict[str, Any], pairs: int) -> None:
    g, d = CONV
    with pytest.raises(ValueError, match=r"batch normalisation mixes samples: penalties need .* \(norm=False\)"):
        TTUR([g] * pairs, [d] * pairs, lr_g=0.1, lr_d=0.1, **options)
    TTUR([g] * pairs, [d] * pairs, lr_g=0.1, lr_d=0.1, loss="wgan-gp", gp=0.0)


def test_players_that_do_not_fit() -> None:
    g, d = PAIR
    with pytest.raises(ValueError, match="as many critics as generators, at least one, got 1 and 2"):
        TTUR([g, g], [d], lr_g=0.1, lr_d=0.1)
    with pytest.raises(ValueError, match="at least one, got 0 and 0"):
        TTUR([], [], lr_g=0.1, lr_d=0.1)
    with pytest.raises(ValueError, match="lr_d must be one number or 2, one for each pair, got 3"):
        TTUR([g, g], [d, d], lr_g=0.1, lr_d=[0.1] * 3)
    with pytest.raises(ValueError, match=r"G has no z_dim, .*: set it, such as G.z_dim = 16"):
        TTUR(nn.Linear(3, 4), d, lr_g=0.1, lr_d=0.1)
    with pytest.raises(ValueError, match="type _Up cannot be stacked; train the seeds one after another"):
        TTUR([gan.ResNetGenerator(8, 1, 3, 2)] * 2, [d, d], lr_g=0.1, lr_d=0.1)


def test_images_that_do_not_fit() -> None:
    g, d = PAIR
    players = TTUR([g, g], [d, d], lr_g=0.1, lr_d=0.1)
    good = torch.rand(12, 1, 8, 8) * 2 - 1
    with pytest.raises(ValueError, match=r"2 equal block\(s\) of rows, got shape \(11, 1, 8, 8\)"):
        players.step(good[1:])
    with pytest.raises(ValueError, match=r"2 equal block\(s\)"):
        players.step(good[:0])
    with pytest.raises(ValueError, match=r"\[-1, 1\], got values up to 255; images in \[0, 1\] become 2 x - 1"):
        players.step(torch.full_like(good, 255))
    with pytest.raises(ValueError, match="got values up to nan"):
        players.step(good * torch.nan)
    with pytest.raises(ValueError, match=r"shape of G's samples \(12, 1, 8, 8\), got \(12, 3, 4, 4\)"):
        players.step(good[:, :, :4, :4].repeat(1, 3, 1, 1))
    for bad in ({"n": 0}, {"n": 3, "batch_size": 0}):
        with pytest.raises(ValueError, match="must be an integer >= 1, got 0"):
            players.sample(**bad)
    assert players.updates == 0
    players.step(good)
    assert players.updates == 1
