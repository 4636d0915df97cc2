"""The study of notebook 04_certified_bounds."""
