"""Players: shapes, layers, initial weights, the sizes of the paper, and a step of WGAN-GP."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from flatlab import gan
from flatlab.models import stackable

Players = Callable[..., nn.Module]


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def kinds(model: nn.Module) -> list[type[nn.Module]]:
    return [type(layer) for layer in model]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 16, 32, 64])
@pytest.mark.parametrize(
    ("generator", "critic"),
    [
        (gan.MLPGenerator, gan.MLPDiscriminator),
        (gan.DCGANGenerator, gan.DCGANDiscriminator),
        (gan.ResNetGenerator, gan.ResNetDiscriminator),
    ],
)
def test_shapes_of_images(generator: Players, critic: Players, size: int, channels: int) -> None:
    G, D = generator(size, channels, z_dim=5, width=2), critic(size, channels, width=2)
    images = G(3 * torch.randn(2, 5))
    assert G.z_dim == 5
    assert images.shape == (2, channels, size, size)
    assert images.abs().max() <= 1
    assert D(images).shape == (2, 1)


@pytest.mark.parametrize(
    ("generator", "critic", "more"),
    [
        (gan.TextGenerator, gan.TextDiscriminator, {"blocks": 2}),
        (gan.MLPTextGenerator, gan.MLPTextDiscriminator, {}),
    ],
)
def test_texts_are_distributions_at_each_place(generator: Players, critic: Players, more: dict[str, int]) -> None:
    G, D = generator(6, 4, z_dim=3, width=5, **more), critic(6, 4, width=5, **more)
    texts = G(torch.randn(7, 3))
    assert (G.z_dim, texts.shape) == (3, (7, 4, 6))
    torch.testing.assert_close(texts.sum(1), torch.ones(7, 6))
    assert texts.min() >= 0
    assert D(texts).shape == (7, 1)
    assert stackable(G)
    assert stackable(D)


def test_a_dcgan_of_the_paper_has_its_numbers_of_parameters() -> None:
    """Layer by layer: weights + biases, then scale and shift of the normalisation."""
    G, D = gan.DCGANGenerator(64, 3), gan.DCGANDiscriminator(64, 3)
    linear = 100 * 8192 + 8192, 2 * 512
    up = [25 * 512 * 256 + 256, 2 * 256, 25 * 256 * 128 + 128, 2 * 128, 25 * 128 * 64 + 64, 2 * 64, 25 * 64 * 3 + 3]
    assert parameters(G) == sum(linear) + sum(up) == 5_135_363
    down = [
        25 * 3 * 64 + 64,
        25 * 64 * 128 + 128,
        2 * 128,
        25 * 128 * 256 + 256,
        2 * 256,
        25 * 256 * 512 + 512,
        2 * 512,
    ]
    assert parameters(D) == sum(down) + 8192 + 1 == 4_316_545
    assert G[1].unflattened_size == (512, 4, 4)
    assert gan.DCGANGenerator(32, 3)[1].unflattened_size == (512, 2, 2)


def test_a_dcgan_normalises_all_layers_but_the_ends() -> None:
    norm, up, down, leaky = nn.BatchNorm2d, nn.ConvTranspose2d, nn.Conv2d, nn.LeakyReLU
    start, end = [nn.Linear, nn.Unflatten], [nn.Flatten, nn.Linear]
    assert kinds(gan.DCGANGenerator(16, width=2)) == [*start, *[norm, nn.ReLU, up] * 3, nn.Tanh]
    assert kinds(gan.DCGANDiscriminator(16, width=2)) == [down, leaky, *[down, norm, leaky] * 2, *end]
    assert kinds(gan.DCGANDiscriminator(16, width=2, norm=False)) == [*[down, leaky] * 3, *end]
    widths = [layer.out_channels for layer in gan.DCGANDiscriminator(16, width=2) if isinstance(layer, down)]
    assert widths == [2, 4, 8]
    critics = [gan.DCGANDiscriminator(8), gan.MLPDiscriminator(8)]
    assert {layer.negative_slope for D in critics for layer in D if isinstance(layer, leaky)} == {0.2}


@pytest.mark.parametrize("player", [gan.DCGANGenerator, gan.DCGANDiscriminator])
def test_initial_weights_of_a_dcgan(player: Players) -> None:
    model = player(32, width=32)
    for layer in model:
        if isinstance(layer, nn.BatchNorm2d):
            assert (layer.weight == 1).all()
        elif hasattr(layer, "weight"):
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.15)
            assert abs(layer.weight.mean().item()) < 0.1 * 0.02 + 0.06 / layer.weight.numel() ** 0.5
        if hasattr(layer, "bias"):
            assert (layer.bias == 0).all()


def test_residual_players_normalise_where_the_authors_do() -> None:
    G, D = gan.ResNetGenerator(16, width=4), gan.ResNetDiscriminator(16, width=4)
    count = lambda model, kind: sum(isinstance(layer, kind) for layer in model.modules())  # noqa: E731
    assert count(G, nn.BatchNorm2d) == 2 * 2 + 1
    assert count(D, nn.GroupNorm) == 2 * 2
    assert count(D, nn.BatchNorm2d) == count(G, nn.GroupNorm) == 0
    assert [layer.bias is None for layer in D.modules() if isinstance(layer, nn.Conv2d)] == [
        False,
        *[True, False, False] * 2,
    ]
    assert [layer.bias is None for layer in G.modules() if isinstance(layer, nn.Conv2d)] == [
        *[True, False, False] * 2,
        False,
    ]
    assert {layer.num_groups for layer in D.modules() if isinstance(layer, nn.GroupNorm)} == {1}
    x = torch.randn(3, 3, 16, 16)
    torch.testing.assert_close(D(x)[:1], D(x[:1]))  # no sample sees another


def test_shortcuts_keep_what_the_inner_part_leaves_alone() -> None:
    """With the last convolution at zero, a block is its shortcut: nearest pixels upwards, means downwards."""
    up, down = gan.ResNetGenerator(8, width=4)[2], gan.ResNetDiscriminator(8, width=4)[1]
    x = torch.randn(2, 4, 6, 6)
    for last in (up.third, down.inner[-1]):
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    torch.testing.assert_close(up(x), up.shortcut(x).repeat_interleave(2, 2).repeat_interleave(2, 3))
    torch.testing.assert_close(down(x), down.shortcut(x).unflatten(2, (3, 2)).unflatten(4, (3, 2)).mean((3, 5)))


def test_a_block_of_text_adds_three_tenths() -> None:
    block = gan.TextGenerator(6, 4, width=3, blocks=1)[2]
    x = torch.randn(2, 3, 6)
    torch.testing.assert_close(block(x), x + 0.3 * block.body(x))
    assert kinds(block.body) == [nn.ReLU, nn.Conv1d, nn.ReLU, nn.Conv1d]
    assert {layer.kernel_size for layer in block.body if isinstance(layer, nn.Conv1d)} == {(5,)}


@pytest.mark.parametrize("kind", ["resnet", "text", "mlp text", "dcgan"])
def test_players_train_with_wgan_gp(kind: str) -> None:
    texts = gan.one_hot(torch.randint(4, (8, 6)), 4)
    images = torch.rand(8, 1, 8, 8) * 2 - 1
    G, D, real = {
        "resnet": lambda: (gan.ResNetGenerator(8, 1, 4, 8), gan.ResNetDiscriminator(8, 1, 8), images),
        "dcgan": lambda: (gan.DCGANGenerator(8, 1, 4, 3), gan.DCGANDiscriminator(8, 1, 3, norm=False), images),
        "text": lambda: (gan.TextGenerator(6, 4, 3, 5, 2), gan.TextDiscriminator(6, 4, 5, 2), texts),
        "mlp text": lambda: (gan.MLPTextGenerator(6, 4, 3, 5), gan.MLPTextDiscriminator(6, 4, 5), texts),
    }[kind]()
    both = nn.ModuleDict({"G": G, "D": D})
    before = copy.deepcopy(both.state_dict())
    players = gan.TTUR(G, D, lr_g=1e-3, lr_d=1e-3, loss="wgan-gp", betas=(0.0, 0.9))
    losses = players.step(real)
    assert all(loss.isfinite() for loss in losses.values())
    unmoved = [name for name, p in both.named_parameters() if torch.equal(p, before[name])]
    assert all(name.startswith("D.") and name.endswith("bias") for name in unmoved), (
        "constants are no slopes, and cancel"
    )
    assert len(unmoved) <= 2


def test_one_hot() -> None:
    found = gan.one_hot(torch.tensor([[0, 2, 1], [1, 1, 0]]), 3)
    assert found.dtype == torch.float32
    assert found.tolist() == [[[1, 0, 0], [0, 0, 1], [0, 1, 0]], [[0, 0, 1], [1, 1, 0], [0, 0, 0]]]
    assert gan.one_hot(torch.tensor([[0, 1]], dtype=torch.uint8), 5).shape == (1, 5, 2)


@pytest.mark.parametrize(
    ("codes", "error", "message"),
    [
        (torch.tensor([[0, 3]]), ValueError, r"codes must lie in 0\.\.2, got 0\.\.3; raise symbols"),
        (torch.tensor([[-1, 2]]), ValueError, r"codes must lie in 0\.\.2, got -1\.\.2"),
        (torch.tensor([0, 1]), ValueError, r"\(N, length\), and some, got shape \(2,\)"),
        (torch.zeros(0, 4, dtype=torch.long), ValueError, r"got shape \(0, 4\)"),
        (torch.ones(2, 2), TypeError, "integers, got torch.float32"),
    ],
)
def test_codes_that_are_none_are_refused(codes: torch.Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        gan.one_hot(codes, 3)


GENERATORS = [gan.MLPGenerator, gan.DCGANGenerator, gan.ResNetGenerator]
CRITICS = [gan.MLPDiscriminator, gan.DCGANDiscriminator, gan.ResNetDiscriminator]
TEXT = {
    gan.TextGenerator: "z_dim",
    gan.MLPTextGenerator: "z_dim",
    gan.TextDiscriminator: "",
    gan.MLPTextDiscriminator: "",
}


@pytest.mark.parametrize("player", [*GENERATORS, *CRITICS])
def test_sizes_of_images_out_of_bounds(player: Players) -> None:
    bad = {"channels": 0, "width": 0, **({"z_dim": 0} if player in GENERATORS else {})}
    for name, value in bad.items():
        with pytest.raises(ValueError, match=f"{name} must be an integer >= 1, got 0"):
            player(8, **{name: value})
    if player in (gan.MLPGenerator, gan.MLPDiscriminator):
        with pytest.raises(ValueError, match="image_size must be an integer >= 1, got 0"):
            player(0)
    else:
        with pytest.raises(ValueError, match="image_size must be 8, 16, 32 or 64, got 28: resize the images"):
            player(28)


@pytest.mark.parametrize("player", TEXT)
def test_sizes_of_texts_out_of_bounds(player: Players) -> None:
    names = ["width", *filter(None, [TEXT[player]]), *(["blocks"] if "MLP" not in player.__name__ else [])]
    for name in names:
        with pytest.raises(ValueError, match=f"{name} must be an integer >= 1, got 0"):
            player(6, 4, **{name: 0})
    with pytest.raises(ValueError, match="length must be an integer >= 1, got 0"):
        player(0, 4)
    with pytest.raises(ValueError, match="symbols must be an integer >= 2, got 1"):
        player(6, 1)
