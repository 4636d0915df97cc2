"""Certified bounds for PyTorch modules by linear relaxation (Xu et al. 2020, arXiv 2002.12920)."""

from flatlab.bounds.audit import audit, violation
from flatlab.bounds.backward_pass import LinearFunction
from flatlab.bounds.bounds import METHODS, Bounds, Certificate, compute_bounds
from flatlab.bounds.capture import Program
from flatlab.bounds.certified_flatness import CertifiedFlatness, certified_flatness
from flatlab.bounds.errors import DomainError, MemoryLimitExceeded, UnsupportedOperator
from flatlab.bounds.losses import fused_ce, margins, robust_ce, verified, verified_error, verified_in_ball
from flatlab.bounds.rows import Margins
from flatlab.bounds.rules import RULES, supported
from flatlab.bounds.sets import Box, L0Ball, LpBall, Synonyms
from flatlab.bounds.slopes import Ascent
from flatlab.bounds.synonyms import ExchangedWords, clean_words, synonym_set
from flatlab.bounds.training import Balls, CertifiedTraining, Perturbed
from flatlab.bounds.weights import weight_balls

__all__ = [
    "METHODS", "RULES", "Ascent", "Balls", "Bounds", "Box", "Certificate", "CertifiedFlatness", "CertifiedTraining",
    "DomainError", "ExchangedWords", "L0Ball", "LinearFunction", "LpBall", "Margins", "MemoryLimitExceeded",
    "Perturbed", "Program", "Synonyms", "UnsupportedOperator", "audit", "certified_flatness", "clean_words",
    "compute_bounds", "fused_ce", "margins", "robust_ce", "supported", "synonym_set", "verified", "verified_error",
    "verified_in_ball", "violation", "weight_balls",
]  # fmt: skip
