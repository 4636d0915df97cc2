"""foolbox finds the same adversarial inputs as our PGD, sample by sample, and leaves the model as it was."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

from flatlab import attacks

EPS = 0.1

foolbox = pytest.importorskip("foolbox")


def precise(model, x):
    """Both in float64: the loss of a confident network underflows in float32, and signs of its gradient are noise."""
    return copy.deepcopy(model).double(), x.double()


@pytest.mark.parametrize("name", ["std", "pgd_at"])
@pytest.mark.parametrize("steps", [1, 20])
def test_own_pgd_agrees_sample_by_sample(name, steps, digits, request):
    model, x = precise(request.getfixturevalue(name), digits[0])
    y = digits[1]
    for seed in (0, 1, 2):
        torch.manual_seed(seed)
        own = attacks.pgd(model, x, y, EPS, steps=steps)
        torch.manual_seed(seed)
        theirs = attacks.foolbox_attack("LinfPGD", model, x, y, EPS, steps=steps)
        torch.manual_seed(seed)
        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
        bare = foolbox.attacks.LinfPGD(abs_stepsize=2.5 * EPS / steps, steps=steps, random_start=True)
        _, plain, _ = bare(wrapped, x, y, epsilons=EPS)
        model.zero_grad(set_to_none=True)  # foolbox without the adapter leaves gradients behind
        assert torch.equal(theirs, plain)
        with torch.no_grad():
            assert torch.equal(model(own).argmax(1), model(theirs).argmax(1))
        assert (own != theirs).float().mean() < 1e-3  # equal, but for the sign of gradients that round to zero


def test_single_step_from_x_is_fgsm(std, digits):
    (model, x), y = precise(std, digits[0]), digits[1]
    theirs = attacks.foolbox_attack("LinfPGD", model, x, y, EPS, steps=1, abs_stepsize=EPS, random_start=False)
    assert torch.allclose(theirs, attacks.fgsm(model, x, y, EPS), atol=1e-7)


def test_accepts_a_ready_attack(std, digits, accuracy):
    x, y = digits
    ready = foolbox.attacks.LinfDeepFoolAttack(steps=5)
    adv = attacks.foolbox_attack(ready, std, x[:50], y[:50], EPS)
    assert (adv - x[:50]).abs().max() <= EPS + 1e-6
    assert accuracy(std, adv, y[:50]) < 0.9
    with pytest.raises(ValueError, match="carries its own options: set steps, random_start"):
        attacks.foolbox_attack(ready, std, x, y, EPS, steps=3, random_start=False)


def test_leaves_the_model_as_it_was(std, digits):
    x, y = digits
    std.train()
    std[1].bias.requires_grad_(False)
    try:
        attacks.foolbox_attack("LinfAdamPGD", std, x[:20], y[:20], EPS, steps=2)
        assert std.training
        assert [p.requires_grad for p in std.parameters()] == [True, False, True, True, True, True]
        assert all(p.grad is None for p in std.parameters())
        with pytest.raises(ValueError, match="targets"):  # an error inside foolbox
            attacks.foolbox_attack(Broken(), std, x[:20], y[:20], EPS)
        assert std.training
        assert std[3].weight.requires_grad
    finally:
        std.eval().requires_grad_(True)


class Broken:
    def __call__(self, model, inputs, criterion, *, epsilons):
        raise ValueError("no targets")


def test_a_model_that_answers_by_chance_is_refused(digits):
    class Chance(nn.Module):
        def forward(self, x):
            return torch.rand(len(x), 10) + 0 * x.sum()

    x, y = digits
    with pytest.raises(RuntimeError, match=r"clean accuracy is 0.* through foolbox's wrapper"):
        attacks.foolbox_attack("LinfPGD", Chance(), x, y, EPS)


def test_refusals(std, digits):
    x, y = digits
    with pytest.raises(ValueError, match=r"unknown foolbox attack 'LinfPGDD'.*did you mean 'LinfPGD'"):
        attacks.foolbox_attack("LinfPGDD", std, x, y, EPS)
    with pytest.raises(RuntimeError, match="train mode"):
        attacks.foolbox_attack("LinfPGD", nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(64, 10)), x, y, EPS)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        attacks.foolbox_attack("LinfPGD", std, x * 255, y, EPS)
    assert torch.equal(attacks.foolbox_attack("LinfPGD", std, x, y, 0), x)


def test_missing_foolbox_is_said_clearly(std, digits, monkeypatch):
    x, y = digits
    monkeypatch.setitem(sys.modules, "foolbox", None)
    with pytest.raises(ImportError, match="pip install foolbox"):
        attacks.foolbox_attack("LinfPGD", std, x, y, EPS)


def test_importing_attacks_needs_torch_and_numpy_alone():
    code = (
        "import sys\n"
        "for name in 'foolbox eagerpy scipy pandas sklearn matplotlib seaborn'.split(): sys.modules[name] = None\n"
        "import flatlab.attacks"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_disagreement_is_the_share_of_other_predictions(monkeypatch):
    torch.manual_seed(0)
    net, x, y = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), torch.rand(20, 1, 8, 8), torch.arange(20) % 10
    assert attacks.disagreement(net, x, y, 0.1, steps=5) == 0
    moved = (torch.arange(20) < 5).view(-1, 1, 1, 1)
    theirs = lambda attack, model, x, *_, **__: torch.where(moved, 1 - x, x)  # noqa: E731
    monkeypatch.setattr("flatlab.attacks.foolbox.pgd", lambda model, x, *_, **__: x)
    monkeypatch.setattr("flatlab.attacks.foolbox.foolbox_attack", theirs)
    share = (net(x).argmax(1) != net(torch.where(moved, 1 - x, x)).argmax(1)).double().mean()
    assert attacks.disagreement(net, x, y, 0.1) == share
    assert share > 0
