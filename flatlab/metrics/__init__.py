"""Numbers that compare two samples: how far apart they are, and how well a score tells them apart."""

from flatlab.metrics.auroc import auroc
from flatlab.metrics.frechet import fid, frechet_distance

__all__ = ["auroc", "fid", "frechet_distance"]
