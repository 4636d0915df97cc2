"""Data: a batch corrupted at once against image by image."""

import time

import pytest
import torch

from flatlab.data import CORRUPTIONS, corrupt


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
