"""The family of placements: what became of what answers showed."""
