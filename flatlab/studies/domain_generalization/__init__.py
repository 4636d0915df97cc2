"""06_domain_generalization: settings, claims, and experiments that only this notebook uses."""
