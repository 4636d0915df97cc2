"""The study of certified bounds, notebook 04."""
