"""What 05_critical_momenta claims, and the rule that decides each claim: fixed before anything is run.

The notebook supplies the estimates. Fractions of starts and accuracies lie in [0, 1]; losses are in nats.
"""

from flatlab.claims import Claim
from flatlab.stats import greater, less, within

CLAIMS = (
    Claim("C1.1", "Critical momenta leave a sharp basin in which Adam stays", greater(0)),
    Claim("C1.2", "They do so without the oversized first step, too", greater(0), source="ours"),
    Claim("C1.3", "and then more often than the same optimizer without a memory", greater(0), source="ours"),
    Claim("C1.4", "More often than critical gradients", greater(0), where="method"),
    Claim("C1.5", "The sharper the basin, the more often", greater(0), where="reviews"),
    Claim("C1.6", "Without a memory, the oversized first step alone gets out of it", greater(0), source="ours"),
    Claim(
        "C2.1",
        "On Levy's function they end lower than Adam, each at its best learning rate",
        less(0),
        where="reviews",
        family="C2",
    ),
    Claim("C2.2", "so they do on Ackley's", less(0), where="reviews", family="C2"),
    Claim("C2.3", "and on Goldstein and Price's", less(0), where="reviews", family="C2"),
    Claim("C2.4", "On Levy's function they end lower than without a memory", less(0), source="ours"),
    Claim("C2.5", "and lower than critical gradients", less(0), where="method"),
    Claim("C2.6", "and where the curvature is lower than where Adam ends", less(0), where="reviews"),
    Claim("C3.1", "In noise, momenta in memory cancel less than gradients do", greater(0), where="method"),
    Claim("C3.2", "also if the memory keeps old items (decay 0.99)", greater(0), where="method"),
    Claim("C3.3", "and in training on digits", greater(0), source="ours"),
    Claim(
        "C4.1", "Simulations diverge just above the stability threshold, and only there", within(0, 0), source="ours"
    ),
    Claim("C4.2", "Five momenta lower the tolerated curvature to less than a tenth", less(0.1), source="ours"),
    Claim(
        "C4.3", "For SGD, the last momenta and the last gradients are the same memory", within(0, 1e-12), source="ours"
    ),
    Claim("C4.4", "The formulas' first step is ten learning rates", within(9.99, 10.01), source="ours"),
    Claim("C5.1", "A character LSTM reaches a lower test loss than with Adam", less(0)),
    Claim("C5.2", "than without a memory", less(0), source="ours"),
    Claim(
        "C5.3",
        "On little text its validation loss rises again after its best, by more than Adam's",
        greater(0),
        where="reviews",
    ),
    Claim("C6.1", "An image classifier reaches a higher test accuracy than with Adam", greater(0), family="C6"),
    Claim("C6.2", "than without a memory", greater(0), source="ours", family="C6"),
    Claim("C7.1", "Tasks in sequence are learned faster than with Adam", greater(0), family="C7"),
    Claim("C7.2", "and more of them is kept", greater(0), family="C7"),
    Claim("C8.1", "Solutions have a lower top curvature than Adam's", less(0), family="C8"),
    Claim("C8.2", "also at one and the same training loss", less(0), source="ours", family="C8"),
    Claim("C8.3", "and lie farther from the start", greater(0), where="reviews", family="C8"),
    Claim("C8.4", "SAM's solutions do have a lower top curvature at that loss", less(0), source="ours"),
    Claim("C9", "SAM over critical momenta is more accurate than either alone", greater(0)),
    Claim("C10.1", "A larger memory leaves sharp basins more often", greater(0), where="implied"),
    Claim("C10.2", "So does one that keeps old items (decay 0.99)", greater(0), where="implied"),
    Claim("C11", "The state takes 3 + C numbers per parameter", within(0, 0), where="code"),
)
