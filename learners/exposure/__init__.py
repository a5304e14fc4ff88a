"""The family of exposure: who gets the attention that answers give, and how it is kept within bounds."""
