"""Models: statsmodels classes around the numerics."""
