"""What one notebook alone needs, a folder for each."""
