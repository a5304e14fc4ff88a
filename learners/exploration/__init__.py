"""The family of exploration: which choice is best for whom, learned from answers that left it to chance."""
