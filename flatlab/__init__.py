"""flatlab: a reproducible study of flat landscapes. Import the packages by name: `from flatlab import attacks`."""

__version__ = "0.1.0"
