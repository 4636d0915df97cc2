"""The study of notebook 05_critical_momenta."""
