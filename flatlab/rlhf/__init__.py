"""What makes a reward model a good teacher: exact policies, gradient flow, bounds, and measures of rewards.

from flatlab import rlhf

policy = rlhf.SoftmaxPolicy(logits)                       # or AutoregressiveTable(V, L, logits); both in batches
rlhf.time_to_gain(policy, r_rm, r_g, gamma=0.2)           # inf where the ground truth never rises by so much
rlhf.bounds.time_lower(policy.variance(r_rm), gamma=0.2, tabular=True)
rlhf.gradient_flow(policy, r_rm, lam=0.05, t_max=10, r_g=r_g).v_g

rlhf.reward_variance(rewards), rlhf.ranking_accuracy(rewards, gold)      # of (prompts, k)
"""

from flatlab.rlhf import bounds, constructions
from flatlab.rlhf.best_of_n import best_of_n
from flatlab.rlhf.correlation import correlation_table
from flatlab.rlhf.flow import FlowResult, gradient_ascent, gradient_flow
from flatlab.rlhf.gain import time_to_gain
from flatlab.rlhf.losses import bradley_terry_loss, kl_penalty
from flatlab.rlhf.measures import (
    RewardNormalizer,
    prompt_accuracies,
    prompt_variances,
    ranking_accuracy,
    reward_variance,
    within_share,
)
from flatlab.rlhf.policies import AutoregressiveTable, SoftmaxPolicy

__all__ = [
    "AutoregressiveTable",
    "FlowResult",
    "RewardNormalizer",
    "SoftmaxPolicy",
    "best_of_n",
    "bounds",
    "bradley_terry_loss",
    "constructions",
    "correlation_table",
    "gradient_ascent",
    "gradient_flow",
    "kl_penalty",
    "prompt_accuracies",
    "prompt_variances",
    "ranking_accuracy",
    "reward_variance",
    "time_to_gain",
    "within_share",
]
