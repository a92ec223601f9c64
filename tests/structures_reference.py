"""Reference cases of covariance structures: the data, the model that each case writes down, and its numbers."""

import gzip
import json
from pathlib import Path

import pandas as pd
import statsmodels.api as sm

import mvmise_sm as ms

FOLDER = Path(__file__).parent / "reference" / "structures"
FAMILIES = {"binomial": sm.families.Binomial, "poisson": sm.families.Poisson}


def cases(name):
    return json.loads(gzip.decompress((FOLDER / f"{name}.json.gz").read_bytes()))


def data(name):
    frame = pd.read_csv(FOLDER / f"{name}.csv.gz", keep_default_na=False, na_values=["NA", ""])
    if name == "fev":
        frame["RACE"] = pd.Categorical(frame.RACE, ["Asian", "Black or African American", "White"])
        frame["ARMCD"] = pd.Categorical(frame.ARMCD, ["PBO", "TRT"])
    if name == "orthodont":
        frame["Sex"] = pd.Categorical(frame.Sex, ["Male", "Female"])
    if name == "ovary":
        frame["occasion"] = frame.groupby("Mare").cumcount() + 1
    return frame


def relationship(name):
    return pd.read_csv(FOLDER / f"{name}.csv.gz", index_col=0)


def pedigree():
    frame = pd.read_csv(FOLDER / "animals_pedigree.csv.gz", keep_default_na=False, na_values=[""])
    return ms.pedigree(frame)


def model_of(case):
    options = case["options"]
    keywords = {"residual": case["residual"]} if case["residual"] else {}
    if "weights" in options:
        keywords["weights"] = options["weights"]
    if "cov" in options:
        keywords["cov"] = {
            k: pedigree() if v.startswith("pedigree:") else relationship(v) for k, v in options["cov"].items()
        }
    if "family" in options:
        return ms.glmer(case["formula"], data(case["dataset"]), family=FAMILIES[options["family"]](), **keywords)
    return ms.lmer(case["formula"], data(case["dataset"]), **keywords)
