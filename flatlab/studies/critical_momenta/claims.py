"""What 05_critical_momenta claims, the rule that decides each claim, and what was changed in them since.

The notebook supplies the estimates. "Leaves" means: ends on the flat basin's side. The grid of C1 and C10 is that of
the settings, and a start's number is the share of its cells in which the start leaves.
"""

from functools import partial

from flatlab.claims import Change, Claim
from flatlab.stats import greater, less, never, within

_starts = partial(
    Claim, unit="share of the grid", units="starts", population="other starts in the same sharp basins", family="C1"
)
_boxes = partial(
    Claim, unit="function value", units="starts", population="other starts in the box of the same function"
)
_noise = partial(Claim, unit="agreement", units="runs", population="other gradient noise on the same quadratic")
_case = partial(Claim, units="computation", population="this computation: nothing is sampled")
_text = partial(
    Claim,
    unit="nats per character",
    units="seeds x windows",
    population="networks from other seeds, and other windows of text like the test text",
)
_images = partial(
    Claim,
    unit="accuracy (fraction)",
    units="seeds x images",
    population="networks of these methods from other seeds, and other digits like the test images",
)
_tasks = partial(
    Claim,
    unit="accuracy (fraction)",
    units="sequences",
    population="other orders of the images and of their pixels, with networks from other seeds",
    family="C7",
)
_nets = partial(Claim, unit="log ratio", units="seeds", population="networks of these methods from other seeds")
_rates = partial(
    Claim,
    unit="log10 ratio",
    units="starts",
    population="other starts in the same sharp basins",
    source="ours",
    family="C12",
)
_TWICE = within(-0.301, 0.301)  # log10 of one half to log10 of two

CLAIMS = (
    _starts(
        "C1.1", "Over a grid of learning rates and sharpnesses, critical momenta leave a sharp basin in more cells "
        "than Adam.", greater(0),
    ),
    _starts(
        "C1.2", "Critical momenta leave in more cells of the grid than Adam without their oversized first step, too.",
        greater(0), source="ours",
    ),
    _starts(
        "C1.3", "Critical momenta without the oversized first step leave in more cells of the grid than the same "
        "optimizer without a memory.", greater(0), source="ours",
    ),
    _starts(
        "C1.4", "With and without the oversized first step, critical momenta leave in more cells of the grid than "
        "critical gradients.", greater(0), where="method",
    ),
    _starts(
        "C1.5", "The sharper the basin, the larger is the share of learning rates at which critical momenta leave it.",
        greater(0), where="reviews", unit="share per tenfold",
    ),
    _starts(
        "C1.6", "The oversized first step alone, without a memory, leaves in more cells of the grid than Adam.",
        greater(0), source="ours",
    ),
    _starts(
        "C1.7", "Critical momenta with the oversized first step leave in more cells of the grid than the same "
        "optimizer without a memory.", greater(0), source="ours",
    ),
    _starts(
        "C1.8", "Each at the learning rate of the grid that takes most other starts out, critical momenta leave more "
        "of the basins than Adam.", greater(0), source="ours", unit="share of basins",
    ),
    _starts(
        "C1.9", "At the two largest learning rates of the grid, too, critical momenta without the oversized first "
        "step leave more of the basins than Adam.", greater(0), source="ours", unit="share of basins",
    ),
    _boxes(
        "C2.1", "On Levy's function critical momenta end lower than Adam, each at its best learning rate.", less(0),
        where="reviews", family="C2",
    ),
    _boxes(
        "C2.2", "On Ackley's function critical momenta end lower than Adam, each at its best learning rate.", less(0),
        where="reviews", family="C2",
    ),
    _boxes(
        "C2.3", "On Goldstein and Price's function critical momenta end lower than Adam, each at its best learning "
        "rate.", less(0), where="reviews", family="C2",
    ),
    _boxes(
        "C2.4", "On Levy's function critical momenta end lower than the same optimizer without a memory, each at its "
        "best learning rate.", less(0), source="ours",
    ),
    _boxes(
        "C2.5", "On Levy's function critical momenta end lower than critical gradients, each at its best learning "
        "rate.", less(0), where="method",
    ),
    _boxes(
        "C2.6", "On Levy's function the curvature is lower where critical momenta end than where Adam ends.", less(0),
        where="reviews", unit="curvature",
    ),
    _noise(
        "C3.1", "On a quadratic with noisy gradients, recent momenta in memory cancel less than recent gradients do.",
        greater(0), where="method",
    ),
    _noise(
        "C3.2", "On a quadratic with noisy gradients, momenta cancel less than gradients also in a memory that keeps "
        "old items (decay 0.99).", greater(0), where="method",
    ),
    _nets(
        "C3.3", "In training on digits, recent momenta in memory cancel less than recent gradients do.", greater(0),
        source="ours", unit="agreement",
    ),
    _case(
        "C4.1", "In every case of a fixed list of capacities and decays, simulations diverge just above the stability "
        "threshold and converge just below it.", within(0, 0), source="ours", unit="contradictions",
    ),
    _case(
        "C4.2", "With a momentum of decay 0.9, five momenta lower the tolerated curvature to less than a tenth.",
        less(0.1), source="ours", unit="ratio",
    ),
    Claim(
        "C4.3", "For SGD it makes no difference, whatever the noise, whether the last momenta or the last gradients "
        "are stored.", never(0.05), source="ours", unit="share of runs", units="random trials",
        population="other noise in the gradient of the same quadratic",
    ),
    _case(
        "C4.4", "The formulas' first step is ten learning rates.", within(9.99, 10.01), source="ours",
        unit="learning rates",
    ),
    Claim(
        "C5.1", "With critical momenta a character LSTM reaches a lower test loss than with Adam.", less(0),
        unit="nats per character", units="seeds x stretches of text",
        population="networks from other seeds, and other stretches of text like the test text",
    ),
    Claim(
        "C5.2", "With critical momenta a character LSTM reaches a lower test loss than with the same optimizer "
        "without a memory.", less(0), source="ours", unit="nats per character", units="seeds x stretches of text",
        population="networks from other seeds, and other stretches of text like the test text",
    ),
    Claim(
        "C5.3", "On little text the validation loss rises again after its best, with critical momenta by more than "
        "with Adam.", greater(0), where="reviews", unit="nats per character", units="seeds",
        population="networks from other seeds, trained on the same text",
    ),
    _images(
        "C6.1", "With critical momenta an image classifier reaches a higher test accuracy than with Adam.", greater(0),
        family="C6",
    ),
    _images(
        "C6.2", "With critical momenta an image classifier reaches a higher test accuracy than with the same "
        "optimizer without a memory.", greater(0), source="ours", family="C6",
    ),
    _images(
        "C6.3", "Adam with its second moment from the momentum, which is critical momenta without a memory, reaches a "
        "higher test accuracy than Adam.", greater(0), source="ours", family="C6",
        exploratory="suggested by networks from other seeds on the same test images",
    ),
    _images(
        "C6.4", "Each of AdamW, AMSGrad and NAdam reaches a higher test accuracy with critical momenta than without.",
        greater(0), family="C6",
    ),
    _tasks(
        "C7.1", "Along a sequence of tasks critical momenta predict more of the images rightly than Adam.", greater(0),
    ),
    _tasks(
        "C7.2", "At the end of a sequence of tasks a network knows more of all tasks with critical momenta than with "
        "Adam.", greater(0), units="sequences x images",
    ),
    _nets(
        "C8.1", "At the end of training, solutions of critical momenta have a lower top curvature than Adam's.",
        less(0), family="C8",
    ),
    _nets(
        "C8.2", "At one and the same training loss, networks trained with critical momenta have a lower top curvature "
        "than Adam's.", less(0), source="ours", family="C8",
    ),
    _nets(
        "C8.3", "Solutions of critical momenta lie farther from the start than Adam's.", greater(0), where="reviews",
        family="C8", unit="distance",
    ),
    _nets(
        "C8.4", "At one and the same training loss, networks trained with SAM have a lower top curvature than Adam's.",
        less(0), source="ours",
    ),
    _images("C9", "SAM over critical momenta reaches a higher test accuracy than either alone.", greater(0)),
    _starts(
        "C10.1", "Critical momenta leave sharp basins in more cells of the grid with a memory of twenty than with one "
        "of five.", greater(0), where="implied", family="C10",
    ),
    _starts(
        "C10.2", "Critical momenta leave sharp basins in more cells of the grid with a memory that keeps old items "
        "(decay 0.99) than with one that forgets them (0.7).", greater(0), where="implied", family="C10",
    ),
    _case(
        "C11", "The state of Adam with critical momenta takes 3 + C numbers per parameter.", within(0, 0), where="code",
        unit="numbers",
    ),
    _rates(
        "C12.1", "With five momenta, the learning rate from which a start leaves a basin is within a factor of two "
        "the one that follows from the stability threshold.", _TWICE,
    ),
    _rates(
        "C12.2", "With no momenta in memory, too, the learning rate from which a start leaves a basin is within a "
        "factor of two the one that follows from the stability threshold.", _TWICE,
    ),
    _rates(
        "C12.3", "With twenty momenta, too, the learning rate from which a start leaves a basin is within a factor of "
        "two the one that follows from the stability threshold.", _TWICE,
    ),
    _rates(
        "C12.4", "For Adam, too, the learning rate from which a start leaves a basin is within a factor of two the "
        "one that follows from the stability threshold.", _TWICE,
    ),
)  # fmt: skip

CHANGES = (
    Change(
        "2026-11-24",
        "C1.1 C1.2 C1.3 C1.4 C1.5 C1.6 C2.1 C2.2 C2.3 C2.4 C2.5 C2.6 C3.1 C3.2 C3.3 C4.1 C4.2 C4.3 C4.4 C5.1 C5.2 C5.3 "
        "C6.1 C6.2 C7.1 C7.2 C8.1 C8.2 C8.3 C8.4 C9 C10.1 C10.2 C11",
        "First rules, committed before the notebook and its first recorded run. Pilots of the escape, of the test "
        "functions and of the memory's agreement had been seen, and C1 and C10 were judged at one learning rate, 0.03, "
        "and (but for C1.5) at one sharpness, 300, which those pilots favoured.",
    ),
    Change(
        "2026-11-24",
        "C1.5 C2.1 C2.2 C2.3 C2.6 C5.3 C8.3",
        "Their places in the source were named more exactly, after the first recorded run. No rule was changed.",
    ),
    Change(
        "2026-11-26",
        "C1.1 C1.2 C1.3 C1.4 C1.6 C10.1 C10.2",
        "Judged over a fixed grid of learning rates and sharpnesses, after runs at other learning rates had shown that "
        "0.03 decides the order of the methods, and after a pilot over the grid. The starts of the recorded run are "
        "new.",
    ),
    Change(
        "2026-11-26",
        "C1.5",
        "A slope over all sharpnesses instead of a comparison of the sharpest basin with the flattest, after the runs "
        "above; new starts.",
    ),
    Change(
        "2026-11-26",
        "C1.7 C1.8 C1.9 C12.1 C12.2 C12.3 C12.4",
        "New. The pilot over the grid, on other starts, had been seen; the factor of two is a round number and was not "
        "fitted.",
    ),
    Change(
        "2026-11-26",
        "C4.1 C4.3",
        "C4.1 says that it is exhaustive over a fixed list of cases. C4.3 is no longer one run that is called exact, "
        "but 59 independent runs.",
    ),
    Change(
        "2026-11-26",
        "C5.1 C5.2 C6.1 C6.2 C7.2 C9",
        "Intervals cross seeds with test samples. C6.1 and C6.2 with 30 seeds instead of 10, since the verdict of C6.1 "
        "hung on single networks. All seeds of the recorded run are new (from 30 on; 20 to 39 before), for these and "
        "all other claims.",
    ),
    Change(
        "2026-11-26",
        "C5.1 C5.2",
        "Crossed with 50 stretches of text, after a first run with single windows: neighbouring windows are dependent. "
        "The verdicts of that run are those of the new rule.",
    ),
    Change(
        "2026-11-26",
        "C6.3 C6.4",
        "New. C6.3 was suggested by networks from seeds 20 to 29; C6.4 tests the abstract's claim about variants of "
        "Adam, and its rule was fixed before any of them was compared on test images.",
    ),
    Change(
        "2026-11-26",
        "C1.1 C2.1 C3.1 C5.1 C6.1 C7.1 C8.1 C9 C10.1 C11",
        "These and all other statements became whole sentences that name their unit, units and population.",
    ),
)
