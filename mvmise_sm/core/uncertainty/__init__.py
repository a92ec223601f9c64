"""Uncertainty at an optimum: second order, small samples, posterior covariances, profiles."""
