"""Elimination of the random effects: the data pass, the tiers, and the choice between them."""
