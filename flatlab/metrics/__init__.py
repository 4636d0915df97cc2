"""Numbers that compare two samples: how far apart they are, and how well a score tells them apart."""

from flatlab.metrics.auroc import auroc
from flatlab.metrics.frechet import frechet_distance, frechet_gaussians

__all__ = ["auroc", "frechet_distance", "frechet_gaussians"]
