"""What is minimised: profiled deviance, Laplace approximation, quadrature, and their starts."""
