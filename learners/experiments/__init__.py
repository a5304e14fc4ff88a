"""Online experiments: which arm is better, told at any time."""
