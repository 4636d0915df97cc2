"""What 07_two_time_scale_gan claims, the rule that decides each claim, and what was changed in them since.

The notebook supplies the estimates. FID is against the training images, in the features of a small classifier trained
on them; differences of FIDs are of log10, so that -0.1 is a fifth less. A run that diverged counts as a FID ten times
the features' variance, or a JSD of 1. "One rate" is the best pair of equal rates, "two rates" the best of all other
pairs of the grid, each chosen on seeds of its own. "Equal operations" counts floating-point operations of both players.
"""

from functools import partial

from flatlab.claims import Change, Claim
from flatlab.stats import greater, less, never, within

_chain = partial(Claim, units="chains", population="other noise, in this game", unit="log10 ratio of distances")
_games = partial(Claim, units="random games", population="other games of this kind", unit="share of trials")
_toy = partial(Claim, units="runs", population="other noise, in this toy")
_case = partial(Claim, units="computation", population="this computation: nothing is sampled")
_ball = partial(Claim, units="starts", population="other starts and noise, on this potential", unit="share of starts")
_judge = partial(Claim, units="classifiers", population="other classifiers, on these images")
_draw = partial(Claim, units="draws", population="other samples of these distributions")
_gan = partial(
    Claim, units="seeds", population="players and batches of other seeds, on these images", unit="log10 of FID"
)
_text = partial(Claim, units="seeds", population="players and batches of other seeds, on this text", unit="JSD")

CLAIMS = (
    _chain(
        "C1.1", "With steps of which the generator's vanish against the critic's, as the theorem asks, chains come at "
        "least ten times closer between a hundredth of the steps and the last.", less(-1), where="Theorem 1",
    ),
    _chain(
        "C1.2", "In the same game, with steps of both players that fall alike, chains move away.", greater(0),
        where="Section 2",
    ),
    _case(
        "C1.3", "In this game, the point that they come to is a minimum of the generator's own loss, as a local Nash "
        "equilibrium asks.", greater(0), where="Theorem 1", unit="second derivative",
    ),
    _games(
        "C2.1", "A game settles exactly when the ratio of its rates exceeds a critical one (ratios within a tenth of "
        "it left out).", never(0.02), where="Section 2",
    ),
    _chain(
        "C2.2", "Where equal rates are stable, two time scales come less close to the limit than one that falls as "
        "fast.", greater(0), source="ours",
    ),
    _toy(
        "C2.3", "In the network flow, equal steps return only to a neighbourhood that grows with the bias of the "
        "gradients.", greater(0), where="appendix A2.3", unit="log10 ratio of distances",
    ),
    _toy(
        "C2.4", "In the network flow, which is stable at every ratio, two time scales end farther from the optimum "
        "than one that falls as fast.", greater(0), source="ours", unit="log10 ratio of distances",
    ),
    _toy(
        "C3.1", "In the paper's toy, rates of .0001 and .01 come near the saddle sooner than .001 for both.", less(0),
        where="Figure 4", unit="log10 ratio of steps",
    ),
    _toy(
        "C3.2", "In the paper's toy, with .01 for both, runs do not stay within 0.15 of the saddle.", greater(0.15),
        where="Figure 4", unit="distance",
    ),
    _toy(
        "C3.3", "In the paper's toy, .009 for both comes near the saddle sooner than .0001 and .01.", less(0),
        source="ours", unit="log10 ratio of steps",
    ),
    _toy(
        "C3.4", "In the paper's toy, .001 for both stays nearer to the saddle than .0001 and .01.", less(0),
        source="ours", unit="distance",
    ),
    _case(
        "C4.1", "Adam with a fixed second moment keeps within a multiple of its time step of the ball with friction: "
        "the error is of first order.", within(0.9, 1.1), where="Theorem 2", unit="log-log slope",
    ),
    _games(
        "C4.2", "On a quadratic, Adam overshoots exactly when rate times curvature exceed a threshold that depends on "
        "beta1 alone.", never(0.02), source="ours", units="random beta1", population="other beta1 from 0.3 to 0.95",
    ),
    _toy(
        "C4.3", "The correction of the first moment's bias, which the theorem leaves out, takes Adam further from the "
        "ball's path.", greater(0), source="ours", units="groups of chains", unit="distance",
        population="other noise, on this potential",
    ),
    _ball(
        "C5", "At a rate of 0.03, Adam with beta1 = 0.9 rolls over a small dip from more starts than without momentum.",
        greater(0), where="Figure 2",
    ),
    _ball(
        "C6.1", "Of two wells of equal depth, Adam ends in the flat one more often than the gradient flow, from at "
        "least five starts in a hundred.", greater(0.05), where="Section 3",
    ),
    _ball(
        "C6.2", "At a rate where gradient steps without momentum prefer the flat well, steps with momentum prefer it "
        "more.", greater(0), source="ours",
    ),
    _judge(
        "C7.1", "FID rises with every level of all six disturbances.", greater(0), where="Figure 3",
        unit="least rise, over tr C", note="The paper's own table has one step down: salt and pepper, 383 to 381.",
    ),
    _judge(
        "C7.2", "The inception distance (the best inception score less this one) falls from one level to the next of "
        "at least one disturbance.", less(0), where="Figure 3", unit="least rise",
    ),
    _gan(
        "C8.1", "At equal updates, two rates end with a lower FID than one rate.", less(0), where="Table 1",
        paper_value="12.5 against 21.4, 36.9 against 37.7, 12.5 against 21.4, 57.5 against 70.4",
        note="The paper's numbers are the best single runs of eight, by DCGANs on four data sets. The pair of two "
        "rates is that of C8.3 or that of C8.4.",
    ),
    _gan(
        "C8.2", "At each run's best look, two rates have a lower FID than one rate.", less(0), where="Table 1",
    ),
    _gan(
        "C8.3", "A generator with the larger rate, as in all of the paper's DCGAN experiments, ends with a lower FID "
        "than one rate.", less(0), where="Table 1",
    ),
    _gan(
        "C8.4", "A critic with the larger rate, as the folklore of the method has it, ends with a lower FID than one "
        "rate.", less(0), source="ours",
    ),
    _gan(
        "C8.5", "With convolutional players, two rates end with a lower FID than one rate.", less(0), where="Table 1",
    ),
    _gan(
        "C9.1", "Over seeds, FIDs of two rates lie closer to their median than those of one rate.", less(0),
        where="Figure 5", unit="distance from the median, log10 of FID",
    ),
    _gan(
        "C9.2", "Two rates keep closer to their best look at the end of training than one rate does.", less(0),
        where="Figure 5", unit="log10 of last over best FID",
        note="Runs end while FID still falls, and pairs were chosen at the last look: late rises have little room.",
    ),
    _gan(
        "C10.1", "At equal operations, WGAN-GP with one step of the critic at three times the rate ends with a lower "
        "FID than with five steps at one rate.", less(0), where="Figure 6",
        paper_value="24.8 against 29.3, 9.5 against 20.5",
        note="The paper's numbers are the best single runs, at 700 and 800 minutes, and at 1900 and 2010.",
    ),
    _gan(
        "C10.2", "One step of the critic at the generator's rate ends with a lower FID than five.", less(0),
        source="ours",
    ),
    _gan(
        "C10.3", "With one step of the critic, three times the generator's rate ends with a lower FID than the same "
        "rate.", less(0), source="ours",
    ),
    _gan(
        "C10.4", "At the first look, at equal operations, one step of the critic at three times the rate is ahead of "
        "five steps.", less(0), source="ours",
    ),
    _text(
        "C11.1", "On text, at equal operations, one step of the critic at three times the rate ends with a lower JSD "
        "of the longest n-grams than ten steps at one rate.", less(0), where="Figure 7",
        paper_value=".35 against .38, .74 against .77",
        note="The paper's numbers are the best single runs, for 4-grams and 6-grams.",
    ),
    _text(
        "C11.2", "On text, one step of the critic at the generator's rate ends with a lower JSD than ten.", less(0),
        source="ours",
    ),
    _text(
        "C11.3", "On text, with one step of the critic, three times the generator's rate ends with a lower JSD than "
        "the same rate.", less(0), source="ours",
    ),
    _gan(
        "C12.1", "At the first look, one rate has a lower FID than two rates.", greater(0), where="Figure 5",
    ),
    _gan(
        "C12.2", "One rate is ahead at the first look and behind at the last.", greater(0), where="Figure 5",
    ),
    _gan(
        "C13", "BEGAN, whose balance of players couples them, is as good with one rate as with two.",
        within(-0.05, 0.05), where="appendix A4.3",
    ),
    _draw(
        "C14.1", "The FID of two samples of one distribution falls as one over their size.", within(-1.1, -0.9),
        source="ours", unit="log-log slope",
    ),
    _draw(
        "C14.2", "For normal features the bias is what second order foretells, to within a tenth.", within(0.9, 1.1),
        source="ours", unit="measured over foretold",
    ),
    _draw(
        "C14.3", "For features of images, which are not normal, it is so too, to within a quarter.", within(0.75, 1.25),
        source="ours", unit="measured over foretold", population="other splits of these images into two samples",
    ),
    _draw(
        "C14.4", "FID extrapolated to infinite samples is nearer to the truth than FID.", less(0), source="ours",
        unit="difference of errors",
    ),
    _draw(
        "C15", "The interval of a difference of two FIDs covers the true difference.", greater(0.9), source="ours",
        unit="share of intervals", units="pairs of generators", population="other pairs of normal generators",
    ),
    _gan(
        "C16", "The pair that won the grid does worse on fresh seeds than on those that chose it.", greater(0),
        source="ours", population="other fresh seeds, for this one choice",
    ),
    _gan(
        "C17", "Over the ratios of rates of a grid, the leading eigenvalue of the game's own vector field, per unit of "
        "rate, rises with FID.", greater(0), source="ours", units="ratios", unit="rank correlation",
        population="other ratios of rates from such a grid",
    ),
)  # fmt: skip

CHANGES = (
    Change(
        "2026-11-27",
        "C2.1 C2.2 C2.4 C5 C6.1 C8.5 C12.2 C14.3 C16 C17",
        "After a rehearsal on seeds 7000 to 7007, before any reported run: games are watched in their own unit of "
        "time; the controls of C2.2 and C2.4 fall as fast as what they control; starts of C5 are spread over the "
        "slope, with noise; C6.1 asks for five starts in a hundred; the grid of C8.5 has the generator's direction "
        "too; C12.2 is a crossing; the margin of C14.3 is a quarter instead of a fifth, its population other "
        "splits; C16 compares means of logarithms; C17 leaves the size of the rates out and counts ratios.",
    ),
)
