"""Numerics of mixed models: arrays in, arrays out (numpy and scipy only).

Legend, one meaning in the whole package (Dorie's blme paper, Bates et al. 2015):

====== ==========================================================================
y, X   response (n,) and fixed-effects design (n, p)
Z_k    random-effects design of grouping factor k, J_k levels times q_k columns
theta  free elements of the relative Cholesky factors, terms in formula order
Lambda lower triangular relative factor of a term or factor (q, q)
Sigma  relative covariance Lambda Lambda' (q, q); the covariance is sigma2 * Sigma
V      I + sum_k Z_k (I (x) Sigma_k) Z_k', covariance of y relative to sigma2
M      Lambda' Z'Z Lambda + I
W      (Sigma^-1 + C)^-1 of a block C, defined for singular Sigma
u, b   spherical and original random effects, b = Lambda u
beta   fixed effects (p,)
r2     penalised residual sum of squares y'Py
nu     residual degrees of freedom of the profile: n (ML), n - p (REML)
K      gram matrix [X y]' V^-1 [X y] (p + 1, p + 1)
D_k    derivative of the objective in Sigma_k (q_k, q_k)
====== ==========================================================================
"""
