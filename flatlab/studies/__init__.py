"""One folder for each notebook: what it alone needs. Only here may every subject be imported."""
