"""Minimisation of a criterion over theta, free or under one constraint."""
