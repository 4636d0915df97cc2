"""Certified bounds for PyTorch modules by linear relaxation (Xu et al. 2020, arXiv 2002.12920)."""

from flatlab.bounds.api import compute_bounds
from flatlab.bounds.audit import attainment, audit, every_set, gradient_error, violation
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
from flatlab.bounds.rules import RULES, supported
from flatlab.bounds.sets import Box, L0Ball, LpBall, Synonyms
from flatlab.bounds.specs import Margins
from flatlab.bounds.train import CertifiedTraining
from flatlab.bounds.weights import weight_balls
from flatlab.bounds.words import SynonymTraining, clean_words, withstands, word_report, word_set

__all__ = [
    "RULES",
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
    "certified_flatness",
    "clean_words",
    "compute_bounds",
    "every_set",
    "flatness_report",
    "fused_ce",
    "gradient_error",
    "margins",
    "random_gap",
    "robust_ce",
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
