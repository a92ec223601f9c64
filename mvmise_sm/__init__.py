"""mvmise_sm: linear, generalized linear and selection mixed models with the results of statsmodels.

Names are imported when they are first used, so ``import mvmise_sm`` itself loads neither pandas nor statsmodels.
"""

from mvmise_sm.api import PUBLIC, find

__version__ = "0.1.0"
__all__ = [*PUBLIC, "__version__"]


def __getattr__(name: str):
    import gc

    from mvmise_sm.memory import explained

    collecting = gc.isenabled()
    gc.disable()  # what modules make stays: collections while they load cost a tenth of a second and find nothing
    try:
        with explained(f"loading {name}"):
            value = find(name)
    finally:
        if collecting:
            gc.enable()
    globals()[name] = value
    return value


def __dir__():
    return sorted(__all__)
