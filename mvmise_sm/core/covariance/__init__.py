"""Covariance structures of random effects, theta and the coordinates in which the engine works."""
