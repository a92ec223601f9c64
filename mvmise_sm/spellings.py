"""What to type for functions of R and of statsmodels' MixedLM that have another name here."""

from __future__ import annotations

__all__ = ["of_estimates", "of_model", "of_package", "of_result"]

_MEANS = 'marginal_means("f"), with ddf="kenward-roger" for emmeans\' degrees of freedom'
_GLANCE = "glance(), r2() and icc()"
_ROBUST = 'get_robustcov_results("CR2", groups="g")'
_DRAWN = "to_arviz() for a log-likelihood by row and draw"

# folded name -> what answers it on a result
_RESULT = {
    "aic": "aic",
    "allfit": "all_fit()",
    "bic": "bic",
    "bootmer": "bootstrap()",
    "checkcollinearity": "vif()",
    "checkmodel": "check() and plot_diagnostics()",
    "checknormality": "plot_qq()",
    "checkoutliers": "get_influence().cooks_distance",
    "checkoverdispersion": "overdispersion()",
    "checkresiduals": "resid_simulated()",
    "checksingularity": "singular",
    "checkzeroinflation": "zero_inflation()",
    "coefs": "params, or coef() for every level",
    "coefficients": "params, or coef() for every level",
    "coeftest": _ROBUST + ".tidy()",
    "comparisons": "to_marginaleffects() for marginaleffects.comparisons",
    "confint": "conf_int()",
    "contest": 'wald_test(L, ddf="satterthwaite")',
    "contest1d": 't_test(l, ddf="satterthwaite")',
    "contestmd": 'wald_test(L, ddf="satterthwaite")',
    "contrast": 'marginal_means("f").contrast("pairwise")',
    "cooksdistance": "get_influence().cooks_distance",
    "dfresidual": "nobs - k_params (df_resid is statsmodels', rows less fixed effects)",
    "difflsmeans": 'marginal_means("f", pairs=True)',
    "dotplot": "plot_random_effects()",
    "emmeans": _MEANS,
    "emmip": 'marginal_means("f", by="g").plot()',
    "emtrends": 'marginal_slopes("x", "f")',
    "fitted": "fittedvalues",
    "fixef": "params",
    "fixeffects": "params",
    "formula": "model.formula",
    "getme": "theta, model.exog and model.random_effects",
    "getvarcov": "cov_re, and residual_cov with a residual structure",
    "hatvalues": "get_influence().hat_matrix_diag",
    "influence": "get_influence()",
    "intervals": 'conf_int(method="profile")',
    "issingular": "singular",
    "krmodcomp": 'mvmise_sm.anova(res0, res1, test="kenward-roger")',
    "loglik": "llf",
    "loo": _DRAWN,
    "lsmeans": _MEANS,
    "lsmeanslt": _MEANS,
    "modelframe": "model.data.frame",
    "modelmatrix": "model.exog",
    "modelparameters": "tidy(conf_int=True)",
    "modelperformance": _GLANCE,
    "ngrps": "n_groups",
    "pairs": 'marginal_means("f", pairs=True)',
    "parameters": "tidy(conf_int=True)",
    "pbmodcomp": 'mvmise_sm.anova(res0, res1, test="bootstrap", rng=1)',
    "performance": _GLANCE,
    "plot": "plot_diagnostics(), plot_fit(), plot_qq(), plot_random_effects() and plot_profile()",
    "postvar": "random_effects_cov",
    "predictions": "to_marginaleffects() for marginaleffects.predictions",
    "pvalue": "pvalues",
    "qqmath": "plot_qq() and plot_random_effects()",
    "r2nakagawa": "r2()",
    "rand": "anova_random()",
    "ranef": "random_effects",
    "ranova": "anova_random()",
    "refitml": "update(reml=False)",
    "remlcrit": "criterion",
    "repca": "cov_re, whose eigenvalues rePCA shows",
    "residuals": "resid, resid_pearson",
    "rmse": "np.sqrt(np.mean(resid ** 2))",
    "rstandard": "resid_pearson",
    "se": "bse",
    "sefixef": "bse",
    "sigma": "scale ** 0.5",
    "simulateresiduals": "resid_simulated()",
    "slopes": "marginal_slopes(), or to_marginaleffects() for marginaleffects.slopes",
    "standarderror": "bse",
    "stderror": "bse",
    "terms": "model.formula",
    "tvalue": "tvalues",
    "varcorr": "varcorr",
    "vcov": "cov_params()",
    "vcovcr": _ROBUST + ".cov_params()",
    "vcomp": "varcorr",
    "waic": _DRAWN,
    "weights": "model.weights",
    # MixedLM
    "bsere": 'tidy("random", conf_int=True)',
    "profilere": "profile()",
    "reparams": "theta, or varcorr on the scale of the data",
}

_PACKAGE = {
    "allfit": "res.all_fit()",
    "augment": "res.augment()",
    "bootmer": "res.bootstrap()",
    "confint": "res.conf_int()",
    "contrast": 'res.marginal_means("f").contrast()',
    "drop1": "res.drop1()",
    "emmeans": "res.marginal_means()",
    "emtrends": "res.marginal_slopes()",
    "fixef": "res.params",
    "glance": "res.glance()",
    "glm": "statsmodels' GLM, or glmer with random effects",
    "glmernb": "glmer_nb",
    "glmmtmb": "glmer(..., zero_inflation=, dispersion=), or lmer for a normal response",
    "gls": 'lmer("y ~ x", data, residual="us(visit | id)")',
    "issingular": "res.singular",
    "krmodcomp": 'anova(res0, res1, test="kenward-roger")',
    "lm": "statsmodels' OLS, or lmer with random effects",
    "lme": 'lmer("y ~ x + (1 | g)", data), with residual="ar1(t | g)" for correlated residuals',
    "lmlist": "lm_list",
    "lsmeans": "res.marginal_means()",
    "mixedlm": 'lmer("y ~ x + (1 | g)", data), or lmer("y ~ x", data, groups="g")',
    "mmrm": 'lmer("y ~ arm * visit", data, residual="us(visit | id)")',
    "mvmise": "mvmise_b and mvmise_e",
    "pbmodcomp": 'anova(res0, res1, test="bootstrap", rng=1)',
    "profile": "res.profile()",
    "ranef": "res.random_effects",
    "ranova": "res.anova_random()",
    "readpickle": "load",
    "simulate": "res.simulate()",
    "step": "res.step()",
    "summary": "res.summary()",
    "tidy": "res.tidy()",
    "update": "res.update()",
    "varcorr": "res.varcorr",
}

_ESTIMATES = {
    "asdataframe": "the table itself, which is a DataFrame",
    "confint": "the columns conf_low and conf_high, at alpha= of marginal_means",
    "contrasts": "contrast()",
    "frame": "the table itself, which is a DataFrame",
    "jointtests": "contrast().test(joint=True), or joint_tests() of the result",
    "summary": "the table itself, and test() for p-values",
    "tidy": "the table itself, and test() for p-values",
    "vcov": "estimates.rows and the result's cov_params()",
}


def _folded(name: str) -> str:
    return name.replace("_", "").replace(".", "").lower()


def _sentence(owner: str, name: str, words: dict[str, str]) -> str:
    word = None if name.startswith("_") else words.get(_folded(name))
    text = f"{owner} has no attribute {name!r}"
    return text if word is None else f"{text}; here it is {word}"


def of_result(owner: str, name: str) -> str:
    """The sentence for an attribute that a result does not have."""
    return _sentence(owner, name, _RESULT)


def of_package(name: str) -> str:
    """The sentence for a name that the package does not have."""
    return _sentence("module 'mvmise_sm'", name, _PACKAGE)


def of_estimates(owner: str, name: str) -> str:
    """The sentence for an attribute that a table of marginal means does not have."""
    return _sentence(owner, name, _ESTIMATES)


def of_model(owner: str, name: str, answers: bool) -> str:
    """The sentence for an attribute that a model does not have; `answers`: whether its results have it."""
    text = f"{owner} has no attribute {name!r}"
    if name.startswith("_"):
        return text
    if answers:
        return f"{text}; a model is fitted first: .fit().{name}"
    word = _RESULT.get(_folded(name))
    return text if word is None else f"{text}; a model is fitted first, and then it is {word}"
