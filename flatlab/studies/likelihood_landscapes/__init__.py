"""The study of notebook 01_likelihood_landscapes."""
