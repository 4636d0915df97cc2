"""Planes and images at a tiny size: what is learned, how it is measured, and what a diverged run counts as."""

import dataclasses

import numpy as np
import pytest
import torch

from flatlab import ebm
from flatlab.studies.compositional_ebm import gallery, images, planar, settings
from flatlab.train import Recipe

TINY = dataclasses.replace(
    settings.QUICK,
    seeds=(0, 1),
    planar_sets=("8gaussians",),
    planar_points=1024,
    planar_test=500,
    planar_cells=60,
    planar_net={"widths": (16,), "activation": "silu", "fourier": 8, "scale": 2.0},
    planar_recipe=Recipe(epochs=3, batch_size=128, schedule="cosine", grad_clip=None),
    planar_batch=128,
    limits={"train": 400, "test": 100},
    dims=6,
    components=3,
    image_net={"widths": (16,), "activation": "silu"},
    image_recipe=Recipe(epochs=3, batch_size=100, schedule="cosine", grad_clip=None),
    image_noise=64,
    judge_recipe=Recipe(epochs=2, batch_size=50, lr=3e-3),
    draws=3000,
    annealed=200,
    temperatures=20,
    chain_steps=5,
)


@pytest.fixture(scope="module")
def plane():
    return planar.Plane(TINY, "8gaussians")


@pytest.fixture(scope="module")
def pictures():
    return images.Images(TINY)


@pytest.mark.parametrize("method", list(planar.LOSSES))
def test_every_loss_learns_something_of_a_density(plane, method) -> None:
    fitted = plane.fit(method, rate=1e-2)
    q = ebm.GaussianNoise.standard(2, planar.BASE)
    assert fitted.nll.shape == (2, 500)
    assert fitted.error < 0.05
    assert (fitted.nll.mean(1) > plane.truth - 0.05).all()
    assert (fitted.nll.mean(1) < -float(q.log_prob(plane.test).mean())).all(), "better than where it began"
    assert np.isnan(fitted.ess).all() == (method in ("PCD", "DSM"))


@pytest.mark.parametrize("noise", list(planar.NOISES))
def test_every_noise_trains(plane, noise) -> None:
    fitted = plane.fit("MECO", noise, seeds=(3,), n_noise=32)
    assert np.isfinite(fitted.nll).all()
    assert 1 <= fitted.ess[0] <= 32


@pytest.mark.filterwarnings("ignore:seeds diverged")
def test_a_run_that_diverged_is_not_a_number(plane, monkeypatch) -> None:
    build = planar.Plane.network

    def broken(self, seed):
        net = build(self, seed)
        if seed == 1:
            torch.nn.init.constant_(net[-1].bias, torch.nan)
        return net

    monkeypatch.setattr(planar.Plane, "network", broken)
    fitted = plane.fit("MECO")
    assert np.isfinite(fitted.nll[0]).all()
    assert np.isnan(fitted.nll[1]).all()
    assert np.isnan(fitted.log_z[1])


def test_tuning_points_are_others() -> None:
    reported, tuning = (planar.Plane(TINY, "8gaussians", tuning=t) for t in (False, True))
    assert not set(reported.test[:, 0].tolist()) & set(tuning.test[:, 0].tolist())
    first, second = images.Images(TINY), images.Images(TINY, tuning=True)
    assert len(second.z) + len(second.test) == len(first.z), "of the training images alone"


def test_images_are_white_and_come_back(pictures) -> None:
    z = pictures.z.double()
    torch.testing.assert_close(z.T @ z / len(z), torch.eye(6, dtype=torch.float64), atol=1e-3, rtol=0)
    pixels = pictures.pixels(pictures.test)
    assert pixels.shape == (100, 1, 8, 8)
    assert 0 <= pixels.min() <= pixels.max() <= 1
    assert set(images.HARD) < set(pictures.others)
    assert all(other.shape == (100, 6) for other in pictures.others.values())
    assert pictures.features(pictures.test).shape == (100, 32)
    assert pictures.frechet(pictures.test) < 1e-6 < pictures.floor


def test_corruptions_are_what_they_are_called() -> None:
    x = torch.rand(50, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    made = images.corrupted(x, torch.Generator().manual_seed(0))
    assert all(other.shape == x.shape and 0 <= other.min() <= other.max() <= 1 for other in made.values())
    torch.testing.assert_close(made["flip"].flip(2), x)
    assert made["blur"].var() < x.var() / 4
    torch.testing.assert_close(made["permuted"].flatten(1).sort().values, x.flatten(1).sort().values)
    assert not made["mix"].isclose(x).all(dim=(1, 2, 3)).sum() > 5


def test_models_of_images_are_judged(pictures) -> None:
    learned = pictures.fit("MECO", "GMM", rate=1e-2)
    assert learned.nll.shape == (2, 100)
    assert (learned.ess > 100).all()
    assert learned.nll.mean() < 10, "6 (1 + log 2 pi) / 2 = 8.5 is that of the Gaussian, on training images"
    aurocs = pictures.auroc(learned.models[0])
    assert set(aurocs) == {"f", "g", "log q"}
    assert aurocs["log q"] == pictures.auroc(learned.models[1])["log q"] != aurocs["f"]
    assert all(set(part) == set(pictures.others) and min(part.values()) >= 0 for part in aurocs.values())
    chains = pictures.samples(learned.models[0], 3)
    assert chains.x.shape == (100, 6)
    assert 0.2 < chains.acceptance <= 1
    assert pictures.noise("GMM") is pictures.noise("GMM"), "fitted once"


def test_a_model_that_the_noise_does_not_cover_gets_no_likelihood(pictures, monkeypatch) -> None:
    monkeypatch.setattr(images.ebm, "log_z_of", lambda *a, **k: ebm.LogZ(0.0, 99.0, 0.1))
    monkeypatch.setattr(images.ebm, "ais", lambda *a, **k: ebm.LogZ(1.0, 50.0, 0.2))
    learned = pictures.fit("NCE", "Gaussian", seeds=(0,), rate=1e-3)
    assert np.isnan(learned.nll).all()
    assert learned.ess.tolist() == [99.0]
    monkeypatch.setattr(images.ebm, "ais", lambda *a, **k: ebm.LogZ(1.0, 150.0, 0.05))
    assert pictures.fit("NCE", "Gaussian", seeds=(0,), rate=1e-3).log_z.tolist() == [1.0]


def test_rates_are_found_again() -> None:
    shown: list = []
    small = dataclasses.replace(
        TINY,
        seeds=(7,),
        planar_methods=("NCE",),
        image_rates={("NCE", "Gaussian"): 1e-2},
        limits={"train": 200, "test": 50},
    )
    assert set(planar.tuned_rates(small, shown.append)) == {"NCE"}
    assert set(images.tuned_rates(small, shown.append)) == {("NCE", "Gaussian")}
    assert len(shown) == 4
    with pytest.raises(ValueError, match="seeds"):
        planar.tuned_rates(dataclasses.replace(small, seeds=(100,)), shown.append)


def test_the_gallery_shows_every_noise_and_loss_by_its_means() -> None:
    filled = gallery.Gallery.fill(
        dataclasses.replace(TINY, image_rates={("NCE", "GMM"): 1e-2, ("MECO", "GMM"): 1e-2}, noises=("GMM",))
    )
    table, key = filled.table(), ("MECO", "GMM")
    assert [row for _, row in table.index] == ["noise itself", "NCE", "MECO"]
    assert table.loc[("GMM", "MECO"), "NLL"] == pytest.approx(filled.learned[key].nll.mean())
    assert table.loc[("GMM", "MECO"), "Fréchet"] == pytest.approx(filled.frechet[key].mean())
    by_hand = np.mean([[one["g"][name] for name in images.HARD] for one in filled.auroc[key]])
    assert (
        filled.hard(key, "g").mean()
        == pytest.approx(by_hand)
        == pytest.approx(table.loc[("GMM", "MECO"), "AUROC of g"])
    )
    assert filled.detection().loc[("GMM", "MECO", "f"), "blur"] == pytest.approx(
        np.mean([one["f"]["blur"] for one in filled.auroc[key]])
    )
    assert filled.nll(key).mean() == pytest.approx(filled.learned[key].nll.mean())
    direct, annealed = filled.two_ways()
    assert abs(direct.log_z - annealed.log_z) < 5 * (direct.se + annealed.se)
