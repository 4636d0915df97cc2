"""Certified bounds for PyTorch modules by linear relaxation (Xu et al. 2020, arXiv 2002.12920)."""

from flatlab.bounds.api import compute_bounds
from flatlab.bounds.audit import attainment, audit, every_set, gradient_error, refute, violation
from flatlab.bounds.compat import (
    BoundedModule,
    BoundedParameter,
    BoundedTensor,
    PerturbationL0Norm,
    PerturbationLpNorm,
    PerturbationSynonym,
)
from flatlab.bounds.engine import Bounds, LinearBound
from flatlab.bounds.errors import DomainError, MemoryLimitExceeded, UnsupportedOperator
from flatlab.bounds.flatness import CertifiedFlatness, certified_flatness, flatness_report, random_gap, weight_attack
from flatlab.bounds.graph import Program
from flatlab.bounds.losses import EpsSchedule, fused_ce, margins, robust_ce, verified, verified_error, verified_in_ball
from flatlab.bounds.report import STEP_KINDS, ball_report, step_cost
from flatlab.bounds.rules import RULES, supported
from flatlab.bounds.sets import Box, L0Ball, LpBall, Synonyms
from flatlab.bounds.specs import Margins
from flatlab.bounds.train import CertifiedTraining
from flatlab.bounds.weights import weight_balls
from flatlab.bounds.words import SynonymTraining, clean_words, enumeration_gap, withstands, word_report, word_set

__all__ = [
    "RULES",
    "STEP_KINDS",
    "BoundedModule",
    "BoundedParameter",
    "BoundedTensor",
    "Bounds",
    "Box",
    "CertifiedFlatness",
    "CertifiedTraining",
    "DomainError",
    "EpsSchedule",
    "L0Ball",
    "LinearBound",
    "LpBall",
    "Margins",
    "MemoryLimitExceeded",
    "PerturbationL0Norm",
    "PerturbationLpNorm",
    "PerturbationSynonym",
    "Program",
    "SynonymTraining",
    "Synonyms",
    "UnsupportedOperator",
    "attainment",
    "audit",
    "ball_report",
    "certified_flatness",
    "clean_words",
    "compute_bounds",
    "enumeration_gap",
    "every_set",
    "flatness_report",
    "fused_ce",
    "gradient_error",
    "margins",
    "random_gap",
    "refute",
    "robust_ce",
    "step_cost",
    "supported",
    "verified",
    "verified_error",
    "verified_in_ball",
    "violation",
    "weight_attack",
    "weight_balls",
    "withstands",
    "word_report",
    "word_set",
]
