"""A ground truth that can be computed: the characters of a text, and an offset that only its prompt decides."""

from collections.abc import Sequence

import torch
from torch import Tensor

_WEIGHTS = dict.fromkeys("aeiouAEIOU", 1.0) | dict.fromkeys(",.;:!?'-", 1.5) | {"\n": -2.0}


class CharacterReward:
    """r_G = tanh(1.5 (sum of the weights of prompt and response) / T - 0.5), in [-1, 1], for responses of T characters.

    A vowel weighs 1, a mark of punctuation 1.5, a line break -2, a capital letter -1 more, all else 0. The prompt
    counts, too, so that prompts differ in their mean reward, as they do for reward models of real texts.
    """

    def __init__(self, alphabet: Sequence[str], device: torch.device | str = "cpu") -> None:
        weights = [_WEIGHTS.get(c, 0.0) - c.isupper() for c in alphabet]
        self.weights = torch.tensor(weights, device=device)

    def __call__(self, prompts: Tensor, responses: Tensor) -> Tensor:
        """Prompts (N, P) and responses (N, T) -> (N,)."""
        total = self.weights[prompts].sum(1) + self.weights[responses].sum(1)
        return (1.5 * total / responses.shape[1] - 0.5).tanh()

    def offset(self, prompts: Tensor) -> Tensor:
        """b: the mean weight of the prompt, (N,)."""
        return self.weights[prompts].mean(1)


def shrunk(gold: CharacterReward, prompts: Tensor, responses: Tensor) -> Tensor:
    """r_G + 1, times 0.001 for half of the prompts, those whose codes have an even sum: orders of a prompt stay.

    The shift is needed: without a mean away from 0, standardizing would undo the shrinking.
    """
    small = (prompts.sum(1) % 2 == 0).float()
    return (gold(prompts, responses) + 1) * (1 - 0.999 * small)
