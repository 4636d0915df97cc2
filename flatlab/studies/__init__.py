"""What belongs to one study alone, a folder for each notebook."""
