"""Data: a batch corrupted at once against image by image; what it costs to know data again."""

import hashlib
import time

import pytest
import torch

from flatlab.data import CORRUPTIONS, corrupt
from flatlab.train import fingerprint


@pytest.mark.benchmark(group="corruptions")
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28)], ids=["8x8", "28x28"])
def test_a_thousand_images_at_once_against_one_by_one(benchmark, stopwatch, shape: tuple[int, ...]) -> None:
    images = torch.randint(256, (1000 if stopwatch.measuring else 10, *shape), dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    for kind in CORRUPTIONS:
        seconds = stopwatch(
            {
                "batch": lambda kind=kind: corrupt(images, kind, 3, generator=generator),
                "loop": lambda kind=kind: [corrupt(image[None], kind, 3, generator=generator) for image in images],
            },
            clock=time.process_time,
        )
        ratio = seconds["batch"] / seconds["loop"]
        print(f"\n{kind} of {len(images)} images {shape}: batch / loop = {ratio:.3f}")
        benchmark.extra_info[f"{kind}, batch / loop"] = ratio
        assert ratio < 0.2 or not stopwatch.measuring
    benchmark.pedantic(lambda: None, rounds=1)


@pytest.mark.benchmark(group="fingerprints")
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32], ids=str)
def test_a_fingerprint_against_a_cryptographic_one(benchmark, stopwatch, dtype: torch.dtype) -> None:
    x = torch.randint(256, (10_000 if stopwatch.measuring else 10, 3, 32, 32)).to(dtype)
    seconds = stopwatch(
        {
            "fingerprint": lambda: fingerprint(x),
            "sha256": lambda: hashlib.sha256(x.numpy()).digest(),
        },
        clock=time.process_time,
    )
    ratio = seconds["fingerprint"] / seconds["sha256"]
    print(f"\n{dtype}: fingerprint / sha256 = {ratio:.3f}, {1e3 * seconds['fingerprint']:.1f} ms")
    benchmark.extra_info["fingerprint / sha256"] = ratio
    assert ratio < 0.7 or not stopwatch.measuring
    benchmark.pedantic(lambda: None, rounds=1)
