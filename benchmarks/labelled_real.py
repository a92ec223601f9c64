"""Standard errors of model b with both own terms against `lmer` on a real labelled experiment.

    python benchmarks/labelled_real.py RAW ANNOTATION

RAW is an export of Proteome Discoverer, ANNOTATION its annotation in MSstatsTMT's layout (its example data, a
controlled mixture of ten proteins). All PSMs with more than 40 values, log2 intensities, with and without reference
normalisation. Prints, for every protein, the standard error of the first contrast of conditions by ``mvmise_b`` with
``(1 | Run:outcome) + (1 | sample)``, by ``lmer`` with ``(1 | Run) + (1 | Run:PSM) + (1 | sample)``, their ratio, and
whether ``mvmise_b`` without the terms warns of each.
"""

import sys
import time
import warnings

import numpy as np
import pandas as pd

import mvmise_sm as ms


def compare(long, protein):
    """One row of the table."""
    wide = long.pivot_table(index=["Run", "sample", "Condition"], columns="PSM", values="y").reset_index()
    names = [f"p{k}" for k in range(wide.shape[1] - 3)]
    wide.columns = ["Run", "sample", "Condition", *names]
    both = f"{' + '.join(names)} ~ Condition + (1 | Run)"
    begin = time.process_time()
    ours = ms.mvmise_b(both + " + (1 | Run:outcome) + (1 | sample)", wide, missing_y=False).fit()
    seconds = time.process_time() - begin
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ms.mvmise_b(both, wide, missing_y=False).fit()
    said = " ".join(str(w.message) for w in caught)
    theirs = ms.lmer("y ~ 0 + PSM + Condition + (1 | Run) + (1 | Run:PSM) + (1 | sample)", long).fit()
    term = next(name for name in ours.model.exog_names if name.startswith("Condition"))
    a, b = float(ours.bse[term]), float(theirs.bse[term])
    warned = "".join(c for c, text in (("o", "(1 | Run:outcome)"), ("s", "(1 | sample)")) if text in said)
    print(
        f"{protein:8s} PSMs {len(names):3d} values {len(long):5d}  mvmise_b {a:.4f}  lmer {b:.4f}  ratio {a / b:.3f}  "
        f"warned {warned or '-':2s}  converged {ours.converged}  {seconds:.1f} s",
        flush=True,
    )
    return a / b


def main():
    """Read, compare, print."""
    raw, annotation = sys.argv[1:3]
    warnings.simplefilter("ignore")
    experiment = ms.proteomics.read_proteome_discoverer(raw, annotation=annotation)
    peptides = experiment.filter().peptides().normalize("median")
    for label, data in (("median", peptides), ("median and reference", peptides.normalize("reference"))):
        print(label)
        ratios = []
        matrix = data.matrix()
        samples = data.samples.set_index("sample").loc[matrix.index]
        for protein, columns in data.features.items():
            table = matrix[columns].assign(Run=samples["Run"], Condition=samples["Condition"], sample=matrix.index)
            long = (
                table.reset_index(drop=True)
                .melt(["Run", "Condition", "sample"], var_name="PSM", value_name="y")
                .dropna()
            )
            long = long[long["Condition"] != "Norm"]
            kept = long["PSM"].value_counts()
            long = long[long["PSM"].isin(kept.index[kept > 40])]
            if (kept > 40).sum() > 1:
                ratios.append(compare(long.reset_index(drop=True), protein))
        print(f"ratios from {np.min(ratios):.3f} to {np.max(ratios):.3f}")


if __name__ == "__main__":
    pd.set_option("display.width", 200)
    main()
