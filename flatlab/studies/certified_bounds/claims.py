"""What 04_certified_bounds claims, and the rule that decides each claim; `CHANGES` says which rules were changed.

The notebook supplies the estimates. Errors and accuracies are fractions, so 0.03 is three points; widths are compared
by their logarithms, and the work of a training step by the slope of the logarithm of its operations over that of the
number of classes: counted, since times depend on the machine and on what else it does. "Verified" names its method.
"""

from functools import partial

from flatlab.claims import Change, Claim
from flatlab.stats import greater, less, never, within

_trials = partial(
    Claim,
    unit="share of trials",
    units="random trials",
    population="other random weights and inputs of these networks",
    source="ours",
)
_errors = partial(
    Claim,
    unit="fraction",
    units="seeds x images",
    population="networks trained from other seeds, and other digits like the test images",
)
_nets = partial(
    Claim, unit="share of networks", units="networks", population="other networks trained in these ways", source="ours"
)
_work = partial(
    Claim,
    unit="exponent",
    units="numbers of classes",
    population="this network and these numbers of classes; operations are counted and do not vary",
    exploratory="operations were put in place of times after a run",
)
_balls = partial(
    Claim,
    unit="nats",
    units="seeds",
    population="other seeds, each with images of its own to train on; these test images",
    where="section on flatness",
)
_shots = partial(
    Claim,
    unit="fraction",
    units="seeds x images",
    population="other seeds, each with images of its own to train on, and other digits like the test images",
)
_talk = partial(
    Claim,
    unit="fraction",
    units="seeds",
    population="other made-up languages, each with sentences and a transformer of its own",
)

CLAIMS = (
    _trials(
        "C1.1", "No attacked or sampled output leaves its certified interval, on any kind of network.", never(0.1),
        source="paper",
    ),
    _trials(
        "C1.2", "No attacked output leaves its interval over L1, L2 or L0 balls, clipped ones, boxes or synonyms.",
        never(0.1), population="other random weights and inputs of a transformer, with sets of these kinds",
    ),
    Claim(
        "C2.1", "CROWN's intervals are narrower than those of CROWN-IBP, on average over the outputs.", less(0),
        where="method", unit="log ratio", units="architectures",
        population="other architectures of such layers, with random weights",
    ),
    _trials(
        "C2.2", "A check of the code: no interval of CROWN-IBP sticks out of that of IBP, which it is cut with.",
        never(0.1),
    ),
    _trials(
        "C2.3", "A check of the code: no interval of alpha-CROWN sticks out of that of CROWN, where its search "
        "begins.", never(0.1),
    ),
    _trials(
        "C2.4", "On networks with random weights CROWN's interval of no output sticks out of that of CROWN-IBP.",
        never(0.1),
    ),
    _nets("C2.5", "On trained networks CROWN verifies every image that CROWN-IBP verifies.", never(0.1)),
    _work(
        "C3.1", "The operations of a training step with loss fusion grow with the number of classes by a power below "
        "0.3.", less(0.3),
    ),
    _work(
        "C3.2", "The operations of a training step without loss fusion grow with the number of classes by a power "
        "above 0.6.", greater(0.6), where="implied",
    ),
    _errors(
        "C4.1", "Fused and unfused training give the same error as verified by IBP, to three points.",
        within(-0.03, 0.03),
    ),
    _errors(
        "C4.2", "The unfused bound is the tighter one: networks trained on it have a lower error as verified by "
        "CROWN-IBP.", less(0), source="ours",
    ),
    _errors(
        "C5.1", "CROWN-IBP training with fusion reaches a lower error than IBP training, as verified by the better of "
        "IBP and CROWN-IBP.", less(0),
    ),
    _errors(
        "C5.2", "IBP and fused CROWN-IBP training both reach an error at least 30 points below that of adversarial "
        "training, as verified by the best of IBP, CROWN-IBP, CROWN and alpha-CROWN.", less(-0.3), where="implied",
    ),
    _nets("C5.3", "No image that IBP, CROWN-IBP or CROWN verifies is broken by an attack.", never(0.1)),
    _errors(
        "C5.4", "At half of the radius, CROWN verifies at least 50 points more of adversarially trained networks than "
        "the better of IBP and CROWN-IBP.", greater(0.5), source="ours",
    ),
    _errors(
        "C5.5", "At half of the radius, adversarial training has the same error as fused training to ten points, as "
        "verified by the best of IBP, CROWN-IBP and CROWN.", within(-0.1, 0.1), source="ours",
    ),
    Claim(
        "C6", "Certified training scales to Tiny ImageNet and to 64x64 ImageNet: its error as verified by IBP is "
        "below 95 percent.", less(0.95), unit="fraction", units="seeds", population="other seeds, on these test images",
        note="needs those images, and the gpu or full preset",
    ),
    _balls(
        "C7.1", "Training on bounds over a ball of weights lowers the certified loss in that ball, against ordinary "
        "training.", less(0), family="C7",
    ),
    _balls(
        "C7.2", "At the same training loss, attacks in the ball raise the loss of a network trained on bounds less "
        "than that of an ordinarily trained one.", less(0), family="C7",
    ),
    _balls(
        "C7.3", "At the same training loss, attacks in the ball raise the loss of a network trained on bounds less "
        "than that of one trained by sharpness-aware minimization.", less(0), source="ours", where="abstract",
    ),
    _shots(
        "C7.4", "At the end of training on few images, a network trained on bounds is more accurate on test images "
        "than an ordinarily trained one.", greater(0), where="section on flatness",
    ),
    _nets(
        "C7.5", "No attack on the weights exceeds the certificate.", never(0.1),
        population="other networks trained in these ways on few images",
    ),
    _shots(
        "C7.6", "Rounding the weights to three bits costs a network trained on bounds less accuracy than an "
        "ordinarily trained one.", less(0),
        exploratory="three bits were put in place of four after a run, with the same test images",
    ),
    _balls(
        "C7.7", "At the end of training, attacks in the ball raise the loss of a network trained on bounds less than "
        "that of an ordinarily trained one.", less(0), note="training losses differ",
    ),
    _shots(
        "C7.8", "At the same training loss, a network trained on bounds with few images is more accurate on test "
        "images than an ordinarily trained one.", greater(0), source="ours",
    ),
    _talk(
        "C8.1", "Against synonyms, training on CROWN-IBP gives transformers of which more is verified, by the best of "
        "IBP, CROWN-IBP and CROWN, than training on IBP.", greater(0),
    ),
    _talk(
        "C8.2", "Of an ordinarily trained transformer CROWN verifies more sentences against synonyms than IBP.",
        greater(0), where="implied",
    ),
    _trials(
        "C9", "The bound of a linear function over synonyms equals the best of all substitutions.", never(0.1),
        source="paper", where="theorem", population="other languages, sentences and linear functions",
    ),
    _trials(
        "C10", "Each affine bound is attained at a point of its set.", never(0.1), source="paper", where="method",
        population="other points and linear functions, with sets of these kinds",
    ),
    _trials(
        "C11", "Gradients of the bounds in the weights agree with finite differences.", never(0.1), source="paper",
        population="other random weights, inputs and directions",
    ),
    _errors(
        "C12.1", "Certified training lowers the error of a DenseNet and of a ResNeXt by at least 20 points against "
        "ordinary training, as verified by the better of IBP and CROWN-IBP.", less(-0.2),
    ),
    _talk(
        "C12.2", "Certified training lowers a transformer's error against synonyms by at least 20 points against "
        "ordinary training, as verified by the better of IBP and CROWN-IBP.", less(-0.2),
    ),
    _talk(
        "C12.3", "Certified training lowers a transformer's error against synonyms against ordinary training, as "
        "verified by the best of IBP, CROWN-IBP and CROWN.", less(0), source="ours",
    ),
)  # fmt: skip

CHANGES = (
    Change(
        "2026-11-25", "C1.1 C2.1 C3.1 C4.1 C5.1 C6 C7.1 C8.1 C9 C10 C11",
        "All rules first written, before the notebook existed; pilots had been run.",
    ),
    Change(
        "2026-11-25", "C7.6",
        "Three bits in place of four, half an hour later and after a run on networks of this kind, whether of reported "
        "seeds is not known; the test images were the same.",
    ),
    Change(
        "2026-11-25", "C3.1 C3.2",
        "The slope is of counted operations, no longer of times, after a run in which times depended on what else the "
        "machine did; thresholds stayed.",
    ),
    Change(
        "2026-11-26", "C1.1 C1.2 C2.2 C2.3 C2.4 C5.3 C7.5 C9 C10 C11",
        "Judged by the share of failures that many random trials allow, no longer as exact: they were largest values "
        "over few random samples. C2.2 and C2.3 follow from the construction and are called checks.",
    ),
    Change(
        "2026-11-26", "C2.5",
        "Added after a pilot (seed 1000) had shown an image that CROWN-IBP verifies and CROWN does not.",
    ),
    Change(
        "2026-11-26", "C4.1 C4.2 C5.1 C5.2 C7.4 C7.6",
        "Intervals cross seeds with test images; C4.1 is two one-sided tests. Thresholds stayed.",
    ),
    Change(
        "2026-11-26", "C5.2",
        "Verified by the best of four methods, the same for all kinds of training, since IBP and CROWN-IBP prove "
        "nothing of adversarially trained networks. The threshold stayed.",
    ),
    Change(
        "2026-11-26", "C5.4 C5.5 C12.1 C12.2 C12.3",
        "Added; thresholds were fixed by pilots with seeds from 1000 on, on held-out training images.",
    ),
    Change(
        "2026-11-26", "C5.2 C5.4 C5.5",
        "Rates of ordinary and adversarial training are now chosen by the same verified error as those of certified "
        "training, and are far lower than before; on held-out images of the tuning seeds the distance of C5.2 was then "
        "below its threshold, which stayed.",
    ),
    Change(
        "2026-11-26", "C7.1 C7.4 C7.6 C8.1 C8.2",
        "No rule: weight decay of ordinary training (0.00316, before 0.001) and rates of transformers (natural "
        "0.00316, before 0.01; crown-ibp 0.03, before 0.05) are now those that the sweep in the notebook "
        "chooses; networks on few images have ten seeds in place of five.",
    ),
    Change(
        "2026-11-26", "C7.2 C7.3 C7.8",
        "At the same training loss; C7.7 keeps the comparison of C7.2 at the end, and C7.8 is C7.4 at the same loss. A "
        "first level, from two pilots, was missed by four of the networks with seeds 20 to 29; the present one is from "
        "seeds 1000 to 1009, and ten seeds that no run had seen are reported.",
    ),
    Change(
        "2026-11-27", "C7.1 C7.2 C7.3 C7.4 C7.5 C7.6 C7.7 C7.8",
        "No rule: bounds over balls of weights, which networks are trained on and certified by, became narrower, and "
        "everything was run again. Weight decay was chosen again on the tuning seeds, and stayed; so did all verdicts.",
    ),
)  # fmt: skip
