"""What a result computes once and keeps: the keys that more than one module needs."""

__all__ = ["ML_FIT"]

# the maximum-likelihood refit of a REML fit: as large as the fit itself, so it stays out of pickles
ML_FIT = "maximum-likelihood fit"
