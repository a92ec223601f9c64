"""A linear mixed model's results with a cluster-robust covariance of the fixed effects."""

from __future__ import annotations

from typing import Any

import numpy as np

from mvmise_sm.exceptions import OptionError
from mvmise_sm.options import strict_options
from mvmise_sm.results.linear import LinearMixedModelResults

__all__ = ["RobustResults"]

_METHODS = ("satterthwaite", "htz", None)
_PROFILES = "profiles are of the likelihood, which a robust covariance leaves alone; ask the result it came from"
_REFUSED = {"profile": _PROFILES, "plot_profile": _PROFILES}


@strict_options
class RobustResults(LinearMixedModelResults, refuses=_REFUSED):
    """Results whose tests and intervals use a cluster-robust covariance; estimates and predictions are the model's.

    Tests are Satterthwaite's t and the F test of Pustejovsky and Tipton by default; ``ddf=None`` takes the normal
    distribution.

    Parameters
    ----------
    result : LinearMixedModelResults
        The fit.
    cov_type : {"CR0", "CR1", "CR1p", "CR1S", "CR2", "CR3"}
    groups : str or array_like
        Clusters.

    Attributes
    ----------
    cov_type : str
    cov_kwds : dict
        ``groups``, the name of the clusters, and ``description``.
    df_resid_inference : ndarray
        Degrees of freedom of the coefficients (k_fe,).
    """

    def __init__(self, result, cov_type, groups):
        from mvmise_sm.inference.robust import RobustDf, robust_covariance

        robust, name = robust_covariance(result, cov_type, groups)
        self.__dict__.update(result.__dict__)
        self._cache = {}
        self._law = RobustDf(robust, f"Satterthwaite, {cov_type} by {name}")
        self._model_cov = np.asarray(result.cov_params_default)
        self.cov_params_default = robust.cov
        self.cov_type = cov_type
        description = f"Cluster-robust covariance {cov_type} by {name} ({robust.n_clusters} clusters)"
        self.cov_kwds = {"groups": name, "description": description}
        self.use_t = True
        self.df_resid_inference = robust.df(np.eye(len(self.params)))

    def model_cov_params(self):
        """Covariance of the fixed effects that the model implies (k_fe, k_fe)."""
        return self._model_cov

    def denominator(self, ddf: Any = "default") -> Any:
        """Covariance and degrees of freedom: those of the robust covariance, or the normal distribution for None."""
        from mvmise_sm.inference.ddf import PlainDf, identified

        if ddf not in ("default", *_METHODS):
            raise OptionError(
                f"ddf must be 'satterthwaite', 'htz' or None with a robust covariance, got {ddf!r}; Kenward-Roger "
                "adjusts the model's own"
            )
        return identified(self, PlainDf(self.cov_params_default, np.inf) if ddf is None else self._law)

    def wald_law(self):
        """Covariance and degrees of freedom of Wald tests."""
        return self.denominator()

    def t_test(self, r_matrix, cov_p=None, use_t=None, *, ddf="satterthwaite"):
        """Test combinations one by one, see `InferentialResults.t_test`; Satterthwaite's t by default."""
        if ddf is None or cov_p is not None:
            return super().t_test(r_matrix, cov_p=cov_p, use_t=bool(use_t))
        return super().t_test(r_matrix, ddf=ddf)

    def wald_test(self, r_matrix, cov_p=None, invcov=None, use_f=None, df_constraints=None, scalar=True, *, ddf="htz"):
        """Test combinations jointly, see `InferentialResults.wald_test`; the F test HTZ by default."""
        if ddf is None or cov_p is not None:
            return super().wald_test(r_matrix, cov_p, invcov, use_f, df_constraints, scalar)
        return super().wald_test(r_matrix, ddf=ddf)

    def conf_int(self, alpha=0.05, method="wald", *, parm=None, **options):
        """Wald intervals with the robust covariance; parameters as in `InferentialResults.conf_int`."""
        if method == "profile":
            raise OptionError("profiles are of the likelihood; a robust covariance has Wald intervals")
        return super().conf_int(
            alpha, method, parm=parm, **({"ddf": "satterthwaite", **options} if method == "wald" else options)
        )

    def anova(self, ddf="default", type=3):
        """Test every term with the robust covariance; parameters as in `InferentialResults.anova`."""
        return super().anova(ddf=ddf, type=type)

    def summary(self, yname=None, xname=None, title=None, alpha=0.05, *, ddf="satterthwaite"):
        """Summarise the fit with robust standard errors; parameters as in `MixedModelResults.summary`."""
        out = super().summary(yname, xname, title, alpha, ddf=ddf)
        out.add_extra_txt([*out.extra_txt.splitlines(), self.cov_kwds["description"]])
        return out

    def tidy(self, effects="fixed", conf_int=False, alpha=0.05, ddf="satterthwaite", **options):
        """Return the estimates as a frame; parameters as in `MixedModelResults.tidy`."""
        return super().tidy(effects, conf_int, alpha, ddf, **options)
