"""The policy that fits on two cores."""

from flatlab.models import CharGPT


class TinyGPT(CharGPT):
    """`flatlab.models.CharGPT` under the names of this field; 70,000 parameters by default with 96 characters.

    Args:
        vocab: number of tokens.
        width: of the residual stream; `heads` must divide it.
        layers: blocks of attention and MLP.
        heads: of the attention.
        context: longest prompt and response together.
    """

    def __init__(self, vocab: int, width: int = 48, layers: int = 2, heads: int = 4, context: int = 64) -> None:
        super().__init__(vocab, width=width, layers=layers, heads=heads, context=context)
