"""What only notebook 05_critical_momenta uses (Malviya et al. 2024, arXiv 2307.09638)."""
