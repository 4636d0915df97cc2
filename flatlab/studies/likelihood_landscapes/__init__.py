"""What only notebook 01_likelihood_landscapes uses (Lin et al. 2020)."""
