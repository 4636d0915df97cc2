"""Settings, claims and experiments of 07_two_time_scale_gan."""
