"""mvmise_sm: linear, generalized linear and selection mixed models with the results of statsmodels.

Names are imported when they are first used, so ``import mvmise_sm`` itself loads neither pandas nor statsmodels.
"""

from mvmise_sm.api import PUBLIC, find

__version__ = "0.1.0"
__all__ = [*PUBLIC, "__version__"]


def __getattr__(name: str):
    from mvmise_sm.memory import explained

    with explained(f"loading {name}"):
        value = find(name)
    globals()[name] = value
    return value


def __dir__():
    return sorted(__all__)
