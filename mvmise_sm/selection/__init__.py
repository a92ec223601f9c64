"""Numerics of the multivariate mixed-effects selection models: arrays in, frozen dataclasses out.

Letters, the same in every module (Wang et al. 2018, Biostatistics, doi:10.1093/biostatistics/kxy022):

=========  ==========================================================================================
``Y``      outcomes, samples x outcomes, NaN where missing; ``N`` samples, ``K`` outcomes
``X, Z``   fixed and random effect designs, ``(N, K, p)`` and ``(N, K, q)``
``beta``   fixed effects ``(p,)``
``tau``    loadings of the shared standard normal effect, model b ``(K,)``
``D``      variances of the independent random effects, model e ``(q,)``
``Sigma``  error covariance between outcomes, model e ``(K, K)``
``s``      error variance of a sample
``phi``    missing-data mechanism: intercept, outcome mean, covariate mean
``eta``    linear predictor of the mechanism for one block (one outcome in one cluster)
``A``      inverse of the observed part of ``Sigma``, zero elsewhere
``P``      conditional covariance of the random effects given the observed outcomes
=========  ==========================================================================================
"""
