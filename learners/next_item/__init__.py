"""Next-item recommendation: the fast learners, their features and the blend."""
