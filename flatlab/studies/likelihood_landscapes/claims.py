"""What 01_likelihood_landscapes claims, and the rule that decides each claim: fixed before any network is trained.

The notebook supplies the estimates. Thresholds: accuracies are fractions, so 0.03 is three points.
"""

from flatlab.claims import Claim
from flatlab.stats import greater, less, within

CLAIMS = (
    Claim("C1.1", "Adversarial training (PGD) has a flatter likelihood landscape than plain training", less(0)),
    Claim("C1.2", "Every defense of the loss-based family is flatter than plain training", less(0), family="C1"),
    Claim("C1.3", "So it is along the worst directions", less(0), family="C1"),
    Claim("C2.1", "Within the loss-based family, flatter methods are more robust", less(0), where="implied"),
    Claim("C2.2", "Across all methods, flatter methods are more robust", less(0), where="implied"),
    Claim("C2.3", "Across all methods, flatter minima in weight space are more robust", less(0), source="ours"),
    Claim("C3.1", "Every direct flatness regularizer is more robust than plain training", greater(0), family="C3"),
    Claim("C3.2", "None costs more than two points of clean accuracy", greater(-0.02), source="ours", family="C3"),
    Claim(
        "C3.3",
        "Flatter than adversarial training is at least as robust (flat_rand, three points)",
        greater(-0.03),
        source="ours",
    ),
    Claim("C4.1", "The landscape flattens as the weight of flat_rand grows", less(0), where="implied"),
    Claim("C4.2", "It flattens as the radius of adversarial training grows", less(0), where="implied"),
    Claim("C4.3", "Robustness rises from the smallest to the third weight", greater(0), source="ours"),
    Claim("C4.4", "From the third weight on it stays within three points", within(-0.03, 0.03), source="ours"),
    Claim("C5.1", "Shifting the logits makes the landscape perfectly flat", within(-1e-5, 1e-5), source="ours"),
    Claim("C5.2", "and changes no prediction", within(0, 0), source="ours"),
    Claim(
        "C5.3",
        "Across all methods, a flatter margin (free of gauge and scale) goes with more robustness",
        less(0),
        source="ours",
    ),
    Claim(
        "C6.1",
        "Logits times 32: accuracy under PGD on the cross-entropy rises by over ten points",
        greater(0.1),
        source="ours",
    ),
    Claim("C6.2", "PGD on the DLR loss does not notice the scale", within(0, 0), source="ours"),
    Claim(
        "C7.1", "Adversarial examples are less likely than their originals (radius eps)", less(0), where="introduction"
    ),
    Claim("C7.2", "They still are at the largest radius studied", less(0), where="introduction"),
    Claim(
        "C8",
        "TRADES brings clean and adversarial energies closer than plain and adversarial training do",
        less(0),
        source="ours",
    ),
    Claim(
        "C9.1",
        "The suite takes less than three points from the adversarially trained networks",
        less(0.03),
        source="ours",
        family="C9",
    ),
    Claim("C9.2", "It takes less than three points from every method", less(0.03), source="ours", family="C9"),
    Claim(
        "C9.3", "Quantised inputs resist plain PGD by hiding gradients (over ten points)", greater(0.1), source="ours"
    ),
    Claim("C10", "Our PGD and foolbox's agree on every image", within(0, 0.002), source="ours"),
)
