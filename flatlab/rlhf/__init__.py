"""What makes a reward model a good teacher: exact policies, bounds, measures, and RLHF of language models.

from flatlab import rlhf

policy = rlhf.SoftmaxPolicy(logits)                       # or AutoregressiveTable(V, L, logits); both in batches
rlhf.time_to_gain(policy, r_rm, r_g, gamma=0.2)           # inf where the ground truth never rises by so much
rlhf.bounds.time_lower(policy.variance(r_rm), gamma=0.2, tabular=True)
rlhf.gradient_flow(policy, r_rm, lam=0.05, t_max=10, r_g=r_g).v_g

rlhf.reward_variance(rewards), rlhf.ranking_accuracy(rewards, gold)      # of (prompts, k)

policy = rlhf.TinyGPT(len(alphabet))                      # or HuggingFaceLM(any causal model of transformers)
rlhf.train_sft(policy, prompts, responses, recipe)
pairs = rlhf.preference_pairs(on, off, gold, on_policy_fraction=0.5, seed=0)
reward_model = rlhf.train_reward_model(pairs, policy)
rlhf.policy_gradient(policy, ref, reward_model, prompts, lr=3e-4, steps=24, max_new_tokens=16)
"""

from flatlab.models.language import response_logps, sample
from flatlab.rlhf import bounds, constructions
from flatlab.rlhf.advantages import grpo_advantages, rloo_advantages
from flatlab.rlhf.best_of_n import best_of_n
from flatlab.rlhf.correlation import correlation_table
from flatlab.rlhf.flow import FlowResult, gradient_ascent, gradient_flow
from flatlab.rlhf.gain import time_to_gain
from flatlab.rlhf.hugging_face import HuggingFaceLM, SequenceReward
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
from flatlab.rlhf.policy_gradient import PolicyHistory, policy_gradient
from flatlab.rlhf.reward_models import RewardModel, preference_pairs, train_reward_model
from flatlab.rlhf.supervised import train_sft
from flatlab.rlhf.teacher import teacher_score
from flatlab.rlhf.tiny_gpt import TinyGPT

__all__ = [
    "AutoregressiveTable",
    "FlowResult",
    "HuggingFaceLM",
    "PolicyHistory",
    "RewardModel",
    "RewardNormalizer",
    "SequenceReward",
    "SoftmaxPolicy",
    "TinyGPT",
    "best_of_n",
    "bounds",
    "bradley_terry_loss",
    "constructions",
    "correlation_table",
    "gradient_ascent",
    "gradient_flow",
    "grpo_advantages",
    "kl_penalty",
    "policy_gradient",
    "preference_pairs",
    "prompt_accuracies",
    "prompt_variances",
    "ranking_accuracy",
    "response_logps",
    "reward_variance",
    "rloo_advantages",
    "sample",
    "teacher_score",
    "time_to_gain",
    "train_reward_model",
    "train_sft",
    "within_share",
]
