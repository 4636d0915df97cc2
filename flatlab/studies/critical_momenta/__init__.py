"""What notebook 05_critical_momenta alone needs."""
