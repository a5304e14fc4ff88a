"""The family of purchase propensity."""
