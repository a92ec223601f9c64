"""An experiment between the exported table and the scan: immutable, with the history of what was dropped and why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mvmise_sm.exceptions import DataError, OptionError
from mvmise_sm.options import strict_options
from mvmise_sm.proteomics.experiment_tables import ExperimentTables
from mvmise_sm.proteomics.layout import NORM
from mvmise_sm.proteomics.measurements import Measurements
from mvmise_sm.proteomics.spectra import PSM, Limits, Step, at_least_one, filtered, peptide_rows
from mvmise_sm.proteomics.steps import group_codes, median_normalised, reference_normalised, summarised

if TYPE_CHECKING:
    from mvmise_sm.scanning import ScanResult

__all__ = ["Experiment"]

_PROTEIN = {"sum": "log_sum", "median": "median", "median_polish": "median_polish"}


@strict_options
@dataclass(frozen=True, eq=False, repr=False)
class Experiment(ExperimentTables):
    """Quantified spectra, peptides or proteins of an experiment, and its samples.

    It comes from a reader (`read_fragpipe` and others) and never changes: every step returns a new one, whose `history`
    is longer. The order of the steps is `filter`, `peptides`, `normalize`, perhaps `proteins`, then `scan`.

    Attributes
    ----------
    level : {"psm", "peptide", "protein"}
        What the rows are.
    source : str
        Which reader it comes from.
    normalized : tuple of str
        Normalisations made, in order.
    """

    # --- steps ------------------------------------------------------------------------------------------------------

    def filter(
        self,
        *,
        purity: float | None = 0.5,
        min_channels: int = 3,
        q_value: float | None = 0.01,
        protein_q_value: float | None = 0.01,
        probability: float | None = None,
        keep: str | Iterable[str] = (),
    ) -> Experiment:
        """Drop decoys, contaminants, shared peptides, impure and poorly measured spectra.

        A rule takes part where the export has what it needs; an unknown purity passes.

        Parameters
        ----------
        purity : float or None, optional
            Least share of the precursor in its isolation window.
        min_channels : int, optional
            Least number of measured channels of a spectrum (labelled experiments).
        q_value, protein_q_value : float or None, optional
            Largest q-value of the precursor and of its protein group (DIA-NN).
        probability : float or None, optional
            Least probability of the identification (FragPipe).
        keep : str or list of str, optional
            Rules to leave out: ``"decoys"``, ``"contaminants"``, ``"shared"``.

        Returns
        -------
        Experiment

        Raises
        ------
        OptionError
            If an option is not allowed, or the spectra are peptides already.
        DataError
            If nothing is left.
        """
        self._must_be("psm", "filter()")
        if not isinstance(keep, Iterable):
            raise OptionError(f"keep must be a rule or a list of rules, got {keep!r}")
        kept = frozenset([keep] if isinstance(keep, str) else keep)
        limits = Limits(purity, q_value, protein_q_value, probability, min_channels, kept)
        data, steps = filtered(self.data, limits)
        if not len(data.rows):
            counts = ", ".join(f"{s.rule} {s.n_dropped}" for s in steps if s.n_dropped)
            raise DataError(f"filter leaves nothing of {len(self.data.rows)} PSMs: {counts or 'there were none'}")
        return self._next(data, *steps)

    def peptides(self, psm: str = "best", *, level: str = "peptide", min_mixtures: int = 2) -> Experiment:
        """Make one row of each modified peptide in each block, and take logarithms to base 2.

        Parameters
        ----------
        psm : {"best", "purest", "sum", "median"}, optional
            The spectrum with the fewest missing channels, then the largest sum, then the first; the same with purity
            and score of the identification before the sum; or sum or median of all of a peptide's spectra.
        level : {"peptide", "ion"}, optional
            ``"ion"`` keeps charges apart.
        min_mixtures : int, optional
            Peptides seen in fewer mixtures (label-free: runs) leave the analysis. With one mixture the rule is off.

        Returns
        -------
        Experiment

        Raises
        ------
        OptionError
            If an option is not allowed.
        DataError
            If no peptide is seen in enough mixtures.
        """
        self._must_be("psm", "peptides()")
        if psm not in PSM:
            raise OptionError(f"psm must be one of {list(PSM)}, got {psm!r}")
        if level not in ("peptide", "ion"):
            raise OptionError(f"level must be 'peptide' or 'ion', got {level!r}")
        if level == "ion" and "charge" not in self.data.rows:
            raise OptionError(f"level='ion' needs the charge, which the data from {self.source} do not have")
        at_least_one("min_mixtures", min_mixtures)
        data, step = peptide_rows(self.data, psm, level == "ion")
        seen = data.features_seen(min_mixtures)
        if not seen.any():
            what = "mixtures" if data.layout.labelled else "runs"
            raise DataError(f"none of {len(seen)} peptides is seen in {min_mixtures} {what}")
        return replace(self._next(data, step), level="peptide", min_mixtures=min_mixtures)

    def normalize(self, method: str = "median") -> Experiment:
        """Take off differences between samples, or between mixtures.

        Parameters
        ----------
        method : {"median", "reference"}, optional
            ``"median"``: y minus the median of its sample plus the mean of the sample medians of its run, Norm
            included. ``"reference"``: y minus the mean of the peptide's Norm channels in the run plus the mean of those
            over all runs, so that the peptide keeps its level; without a measured Norm the values are missing.

        Returns
        -------
        Experiment

        Raises
        ------
        OptionError
            If the rows are spectra, the method is unknown, or a mixture has no Norm channel.
        """
        if self.level == "psm":
            raise OptionError("normalize() works on peptides or proteins; call peptides() first")
        rows, values = self.data.rows, self.data.values
        if method == "median":
            normal = self._next(self.data.having(rows, median_normalised(values, self.data.block)))
        elif method == "reference":
            normal = self._to_reference()
        else:
            raise OptionError(f"method must be 'median' or 'reference', got {method!r}")
        return replace(normal, normalized=(*self.normalized, method))

    def _to_reference(self) -> Experiment:
        data, layout = self.data, self.data.layout
        if not layout.labelled:
            raise OptionError("normalize('reference') needs labelled mixtures with a Norm channel; these are runs")
        reference = layout.role(NORM)[data.block]
        values, level = reference_normalised(data.values, data.feature_codes()[0], reference)
        known = np.isfinite(level)
        measured = np.bincount(data.block[known], minlength=len(layout.labels)) > 0
        without = [name for name, seen in zip(layout.labels, measured, strict=True) if not seen]
        if without:
            verb = "has" if len(without) == 1 else "have"
            raise OptionError(
                f"normalize('reference') needs a Norm channel in every mixture; {', '.join(without)} {verb} none"
            )
        step = Step("normalize", "no_reference", int((~known).sum()), int(known.sum()))
        return self._next(data.having(data.rows, values), step)

    def proteins(self, how: str = "median_polish") -> Experiment:
        """Summarise the peptides of each protein, so that proteins are the features.

        Parameters
        ----------
        how : {"median_polish", "sum", "median"}, optional
            Tukey's median polish of each run, the logarithm of the sum of the intensities, or the median.

        Returns
        -------
        Experiment

        Raises
        ------
        OptionError
            If the rows are not peptides, or `how` is unknown.
        """
        self._must_be("peptide", "proteins()")
        if how not in _PROTEIN:
            raise OptionError(f"how must be one of {sorted(_PROTEIN)}, got {how!r}")
        data = self.data
        kept = data.features_seen(self.min_mixtures)[data.feature_codes()[0]]
        rows, values = data.rows[kept], data.values[kept]
        groups, first = group_codes(rows["protein"].cat.codes.to_numpy(np.int64), data.block[kept])
        names = rows["protein"].array[first].remove_unused_categories()
        out = pd.DataFrame({"protein": names, "peptide": names, "block": data.block[kept][first]})
        step = Step("proteins", how, 0, len(names.categories))
        summary = data.having(out, summarised(values, groups, _PROTEIN[how]))
        return replace(self._next(summary, self._mixture_step(), step), level="protein", min_mixtures=1)

    # --- beyond -----------------------------------------------------------------------------------------------------

    def scan(self, formula: str | None = None, model: Any = None, **options: Any) -> ScanResult:
        """Fit a model to every protein; see `mvmise_sm.scan`.

        Parameters
        ----------
        formula : str, optional
            Right-hand side in columns of `samples`; ``"~ Condition"`` by default. Without random terms those of the
            experiment are added, with a warning that says which.
        model : str or class, optional
            ``"mvmise_b"`` for peptides, ``"lmer"`` for proteins by default.
        **options
            Of `mvmise_sm.scan` (``contrasts``, ``tests``, ``ddf``, ``moderate``, ``terms``, ``output`` and others) and
            of the model.

        Returns
        -------
        ScanResult
        """
        from mvmise_sm.design.build import caller_environment
        from mvmise_sm.proteomics.analysis import scan_experiment

        # formulas see the variables of the caller
        options["eval_env"] = caller_environment(options.get("eval_env"))
        return scan_experiment(self, formula, model, options)

    def plot_profile(self, protein: str, *, ax: Any = None) -> Any:
        """Draw the values of a protein's features over the samples; returns the Axes.

        Parameters
        ----------
        protein : str
            A key of `features`.
        ax : Axes, optional
        """
        from mvmise_sm.proteomics.plots import profile

        return profile(self, protein, ax)

    def plot_missing(self, *, ax: Any = None) -> Any:
        """Draw the share of missing mixtures (label-free: values) of each feature over its mean; returns the Axes.

        Parameters
        ----------
        ax : Axes, optional
        """
        from mvmise_sm.proteomics.plots import missing

        return missing(self, ax)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _must_be(self, level: str, what: str) -> None:
        if self.level != level:
            order = {"psm": "spectra", "peptide": "peptides", "protein": "proteins"}
            hint = "call it before peptides()" if level == "psm" else "call peptides() first"
            raise OptionError(f"{what} works on {order[level]}, and these are {order[self.level]}; {hint}")

    def _next(self, data: Measurements, *steps: Step) -> Experiment:
        return replace(self, data=data, steps=(*self.steps, *steps))
