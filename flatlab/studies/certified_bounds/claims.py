"""What 04_certified_bounds claims, and the rule that decides each claim: fixed before anything is run.

The notebook supplies the estimates. Errors and accuracies are fractions, so 0.03 is three points; widths are compared
by their logarithms, and the work of a training step by the slope of the logarithm of its operations over that of the
number of classes: counted, since times depend on the machine and on what else it does.
"""

from flatlab.claims import Claim
from flatlab.stats import greater, less, within

CLAIMS = (
    Claim("C1.1", "No attacked or sampled output leaves its certified interval, on any network", within(0, 0)),
    Claim("C1.2", "Nor by any other set: L1, L2, L0, clipped balls, synonyms", within(0, 0), source="ours"),
    Claim("C2.1", "CROWN's intervals are narrower than CROWN-IBP's", less(0), where="method", family="C2"),
    Claim("C2.2", "CROWN-IBP's are narrower than IBP's", less(0), where="method", family="C2"),
    Claim("C2.3", "Optimised slopes make CROWN's narrower still", less(0), where="follow-up", family="C2"),
    Claim("C2.4", "CROWN is nowhere looser than CROWN-IBP, output by output", within(0, 1e-6), source="ours"),
    Claim("C3.1", "With loss fusion the work of a training step hardly grows with the number of classes", less(0.3)),
    Claim("C3.2", "Without, it grows almost in proportion", greater(0.6), where="implied"),
    Claim("C4.1", "Fused and unfused training give the same IBP-verified error (three points)", within(-0.03, 0.03)),
    Claim(
        "C4.2",
        "The unfused bound is the tighter one: the networks it trains are verified better by CROWN-IBP",
        less(0),
        source="ours",
    ),
    Claim("C5.1", "CROWN-IBP with fusion reaches a lower verified error than IBP", less(0)),
    Claim("C5.2", "Both reach a far lower one than adversarial training (by 30 points)", less(-0.3), where="implied"),
    Claim("C5.3", "No sample that is verified is ever broken by an attack", within(0, 0), source="ours"),
    Claim("C6", "Certified training scales to Tiny ImageNet and to 64x64 ImageNet", less(0.95)),
    Claim(
        "C7.1",
        "Training on bounds over a weight ball lowers the certified loss in that ball",
        less(0),
        where="section on flatness",
        family="C7",
    ),
    Claim(
        "C7.2",
        "Attacks in the ball raise the loss less than after ordinary training",
        less(0),
        where="section on flatness",
        family="C7",
    ),
    Claim("C7.3", "and less than after sharpness-aware training", less(0), source="ours"),
    Claim("C7.4", "With few images it is more accurate on test images", greater(0), where="section on flatness"),
    Claim("C7.5", "No attack on the weights exceeds the certificate", within(0, 0), source="ours"),
    Claim("C7.6", "Rounding the weights to three bits costs it less accuracy", less(0)),
    Claim("C8.1", "Against synonyms, linear relaxation trains better verified models than intervals", greater(0)),
    Claim(
        "C8.2", "An ordinarily trained model is verified more often by relaxation than by intervals", greater(0),
        where="implied",
    ),
    Claim("C9", "The bound over synonyms equals the best of all substitutions", within(0, 1e-5), where="theorem"),
    Claim("C10", "Each affine bound is attained at a point of its set", within(0, 1e-5), where="method"),
    Claim("C11", "Gradients of the bounds agree with finite differences", within(0, 1e-5)),
)  # fmt: skip
