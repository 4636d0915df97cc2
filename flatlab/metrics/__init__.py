"""Numbers that compare two samples: how far apart they are, and how well a score tells them apart.

features     classifier_features, inception_v3, any callable as Extractor     images -> (N, D)
distances    fid, kid; frechet_distance of two Gaussians; ngram_jsd of texts
FID's error  fid_bias (how much too high), fid_infinity (extrapolated), fid_difference (which is nearer, interval)
in parts     FIDStats, merge                                                  batches, files, several machines
else         inception_score of class probabilities, auroc of scores
"""

from flatlab.metrics.auroc import auroc
from flatlab.metrics.extractors import Extractor, classifier_features, inception_v3, weights_hash
from flatlab.metrics.fid import FIDStats, fid, merge
from flatlab.metrics.fid_bias import fid_bias
from flatlab.metrics.fid_difference import FIDDifference, fid_difference
from flatlab.metrics.fid_infinity import FIDInfinity, fid_infinity
from flatlab.metrics.frechet import frechet_distance
from flatlab.metrics.inception_score import inception_score
from flatlab.metrics.kid import kid
from flatlab.metrics.ngrams import ngram_frequencies, ngram_jsd

__all__ = [
    "Extractor",
    "FIDDifference",
    "FIDInfinity",
    "FIDStats",
    "auroc",
    "classifier_features",
    "fid",
    "fid_bias",
    "fid_difference",
    "fid_infinity",
    "frechet_distance",
    "inception_score",
    "inception_v3",
    "kid",
    "merge",
    "ngram_frequencies",
    "ngram_jsd",
    "weights_hash",
]
