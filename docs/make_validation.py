"""Fit every reference case and write the validation page:  python docs/make_validation.py

The cases are those of ``tests/reference``, fitted as the tests fit them.
"""

import re
import sys
import warnings
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))
warnings.simplefilter("ignore")

import conftest  # noqa: E402
import structures_reference as structured  # noqa: E402
import test_against_bglmer as bglmer  # noqa: E402
import test_against_blme as blmer  # noqa: E402
import test_against_lme4 as lmer  # noqa: E402
import test_against_lme4_glmm as glmer  # noqa: E402
import test_selection_mvmise as mvmise  # noqa: E402

# differences in the objective: what counts as the same point, and as one that a user would notice
SAME, NOTICED = 1e-5, 1e-4


def linear():
    for case_id in lmer.CASES:
        case, frame, result = lmer.fitted(case_id)
        yield case, case["expected"], result.criterion, result, frame


def generalized():
    for case_id in glmer.CASES:
        case, frame, result = glmer.fitted(case_id)
        yield case, case["expected"], glmer.r_objective(result), result, frame


def linear_with_priors():
    for case in blmer.FITTED:
        result = blmer.build(case, conftest.reference_frame).fit(reml=case["reml"])
        yield case, blmer.target(case), result.criterion + result.penalty, result, None


def generalized_with_priors():
    for case in bglmer.FITTED:
        result = bglmer.build(case, conftest.reference_frame).fit(nagq=case["nagq"])
        yield case, bglmer.target(case), bglmer.r_objective(result), result, None


def fixed_effect_error(case, expected, result, frame):
    """Largest difference of a fixed effect in its standard errors; None where theta is not identified."""
    if "degenerate" in case["tags"] or case["id"] in glmer.FLAT:
        return None
    frame = conftest.reference_frame(case["dataset"]) if frame is None else frame
    order = lmer.in_r_order(expected["fixef"], result.model.exog_names, frame)
    theirs = np.array(list(expected["fixef"].values()))
    return float(np.max(np.abs(result.params.to_numpy()[order] - theirs) / result.bse.to_numpy()[order]))


def compare(name, program, cases):
    """One line of the overview, and where the program's own default fit ends too high."""
    gaps, errors, short, seen = [], [], [], 0
    for case, expected, objective, result, frame in cases:
        seen += 1
        gap = objective - (expected["criterion"] if program == "lmer" else expected["objective"])
        gaps.append(gap)
        if abs(gap) < SAME:
            error = fixed_effect_error(case, expected, result, frame)
            if error is not None:
                errors.append(error)
        default = (case.get("r_default") or {}).get("gap")
        if default is not None:
            short.append((default - min(gap, 0.0), case["id"], case["r_call"]))
    gaps = np.array(gaps)
    print(name, seen, gaps.min(), gaps.max(), max(errors), flush=True)
    return {
        "name": name,
        "program": program,
        "cases": seen,
        "same": int((np.abs(gaps) < SAME).sum()),
        "better": int((gaps <= -SAME).sum()),
        "worse": int((gaps >= SAME).sum()),
        "error": max(errors),
        "median": float(np.median(errors)),
        "short": sorted((s for s in short if s[0] > NOTICED), reverse=True),
        "defaults": len(short),
    }


def reproduction():
    """Largest relative difference to mvMISE over every number that it returns."""
    worst = []
    for parameter in mvmise.FITS:
        name, fit = parameter.values
        data, arguments = mvmise.arrays(name, fit["call"])
        ours = mvmise.returned(fit["call"]["model"], data, arguments)
        for key, value in ours.items():
            reference = np.asarray(fit["result"][key], dtype=float).ravel()
            worst.append(float(np.max(np.abs(np.ravel(value) - reference) / (0.01 + np.abs(reference)))))
    return len(mvmise.FITS), max(worst)


def covariance_structures():
    """Cases of structured residuals and random effects: here, by dense matrices, and in other programs."""
    others = structured.cases("other_programs")
    kinds = {"residual": "residuals", "random": "random effects", "known": "known relationships", "glmm": "generalized"}
    overview, short = [], []
    for name, title in kinds.items():
        gaps, agree, compared = [], 0, 0
        for case in structured.cases(name):
            fit = structured.model_of(case).fit(
                **({} if name == "glmm" else {"reml": case["options"].get("reml", True)})
            )
            gaps.append(2.0 * (case["expected"]["llf"] - fit.llf))
            other = others.get(case["id"], {})
            if "r" in other and "null" not in case["id"]:  # R's call of that one is the smaller model
                compared += 1
                gap = fit.llf - other["r"]
                agree += abs(gap) < SAME
                if gap > NOTICED:
                    short.append((f"``{_plain_call(other['call'])}``", f"{gap:.3g}"))
            if "failed" in other:
                short.append((f"``{_plain_call(other['call'])}``", f"fails: {other['failed']}"))
        gaps = np.array(gaps)
        print(title, len(gaps), gaps.min(), gaps.max(), flush=True)
        overview.append((title, str(len(gaps)), f"{np.abs(gaps).max():.0e}", str(compared or "none"), str(agree or "")))
    sas = [
        2.0 * (c["expected"]["llf"]) + others[c["id"]]["sas"]
        for c in structured.cases("residual")
        if "sas" in others.get(c["id"], {})
    ]
    return overview, short, (len(sas), max(sas))


def _plain_call(call):
    """An R call without its optimiser's settings."""
    return re.sub(r",\s*(control|correlation\.control)\s*=\s*\w+Control\([^()]*\)", "", call)


def rows(table):
    """A list-table body."""
    return "\n".join("    * - " + "\n      - ".join(line) for line in table)


def page(found, n_mvmise, worst_mvmise, structures):
    overview = [
        (
            f["name"],
            str(f["cases"]),
            str(f["same"]),
            str(f["better"]),
            str(f["worse"]),
            f"{f['median']:.0e}",
            f"{f['error']:.0e}",
        )
        for f in found
    ]
    stops = [
        (f["name"], str(f["defaults"]), str(len(f["short"])), f"{f['short'][0][0]:.3g}" if f["short"] else "none")
        for f in found
        if f["defaults"] > 10
    ]
    worst = sorted((s for f in found for s in f["short"]), reverse=True)[:12]
    kinds, stopped, (n_sas, above_sas) = structures
    total, same = sum(f["cases"] for f in found), sum(f["same"] for f in found)
    return TEMPLATE.format(
        total=total,
        same=same,
        better=sum(f["better"] for f in found),
        worse=sum(f["worse"] for f in found),
        overview=rows(overview),
        stops=rows(stops),
        worst=rows([(f"``{call}``", f"{gap:.3g}") for gap, _, call in worst]),
        structures=rows(kinds),
        structures_short=rows(stopped),
        n_sas=n_sas,
        above_sas=f"{above_sas:.1e}",
        n_mvmise=n_mvmise,
        worst_mvmise=f"{worst_mvmise:.0e}",
    )


TEMPLATE = """:html_theme.sidebar_secondary.remove: true

Validation
==========

.. This page is written by docs/make_validation.py.

{total} models that R has fitted, fitted again here. The reference is the best point that several of R's optimisers found from several
starts, polished by Newton steps, in R 4.2.2 with lme4 1.1-31 and blme 1.0-5; where blme departs from its paper it is the paper's
objective. Of the {total}, **{same} end at the same objective** within 1e-5 of the deviance, {better} end lower than the best point found in R,
and {worse} end higher.

.. list-table::
    :header-rows: 1

    * - models
      - cases
      - same objective
      - lower here
      - higher here
      - fixed effects, median difference
      - largest
{overview}

Differences of fixed effects are in units of their standard errors, over the cases with the same objective.

Where R stops short
-------------------

R's defaults use derivative-free optimisers with a tolerance. The table counts the default fits that end more than 1e-4 above
the best point known of R's own objective.

.. list-table::
    :header-rows: 1

    * - models
      - default fits in R
      - end too high
      - by up to
{stops}

The largest of them:

.. list-table::
    :header-rows: 1
    :widths: 85 15

    * - call
      - above the best point
{worst}

Covariance structures
---------------------

Structures of residuals and of random effects, known relationships and multi-membership, against the n x n covariance written out, maximised
from several starts by code that shares nothing with this package; beside it nlme 3.1-162 and glmmTMB 1.1.5 (lme4 where the model is one of its
own) and the criterion that SAS prints.

.. list-table::
    :header-rows: 1

    * - structures of
      - cases
      - largest difference of -2 log L
      - fitted in R too
      - same optimum there
{structures}

Where R stops short, in the log-likelihood:

.. list-table::
    :header-rows: 1
    :widths: 80 20

    * - call
      - below ours
{structures_short}

SAS's criterion of {n_sas} models is at most {above_sas} above. ``benchmarks/structure_optima.py`` fits every structure to simulated data, small
and with missed visits, and looks for a better optimum from ten random starts: see :doc:`benchmarks`.

mvMISE
------

``fit(method="mvmise")`` against {n_mvmise} fits of mvMISE 1.0: every coefficient, standard error, variance and stopping value that R returns agrees within a
relative {worst_mvmise}. ``fit(method="ml")`` has no counterpart in R; it is checked against dense likelihoods, numerical integration and finite
differences.

What else is checked
--------------------

* Profile intervals, Satterthwaite's and Kenward and Roger's tests, likelihood-ratio tests, marginal means, predictions, conditional variances,
  leverages: against lme4, lmerTest, pbkrtest and emmeans (``tests/reference/inference.json.gz``).
* Gradients against finite differences; the deviance against dense matrices; invariance to the order of rows and levels and to units.
* Everything again with every installation: ``python -m pytest``.
"""


def main():
    found = [
        compare("linear, lme4", "lmer", linear()),
        compare("generalized, lme4", "glmer", generalized()),
        compare("linear with priors, blme", "blmer", linear_with_priors()),
        compare("generalized with priors, blme", "bglmer", generalized_with_priors()),
    ]
    text = page(found, *reproduction(), covariance_structures())
    (HERE / "validation.rst").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
