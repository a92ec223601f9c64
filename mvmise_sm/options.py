"""One place that knows which options exist: unknown ones are answered with the nearest name, R's words are understood.

`strict_options` decorates a class whose methods users call, `strict` a single function; a function with ``**options``
calls `refuse_unknown` itself, because only it knows what it passes on.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from functools import lru_cache, wraps
from itertools import zip_longest
from typing import Any, NamedTuple, TypeVar

from mvmise_sm.blame import BARE, blamed, refuse_unreal
from mvmise_sm.exceptions import OptionError, UnknownOptionError
from mvmise_sm.memory import guarded, require_room
from mvmise_sm.option_values import Check, checked_kinds, is_number, not_negative, short

__all__ = [
    "answering",
    "constructor_options",
    "parameter_names",
    "refuse_unknown",
    "optimiser_options",
    "refuse_unknown_model_options",
    "shown_options",
    "strict",
    "strict_options",
]

_Callable = TypeVar("_Callable", bound=Callable[..., Any])
_Class = TypeVar("_Class", bound=type)

_FAR = 0.6  # below this similarity another name is a guess, not a hint

# what R, lme4, lmerTest, pbkrtest, blme, emmeans and broom call something that has another name here
R_SPELLINGS = {
    "reml": "a generalized or selection model is fitted by maximum likelihood; for lmer it is fit(reml=False)",
    "nagq": "the number of quadrature nodes belongs to the fit of a generalized model: glmer(...).fit(nagq=9)",
    "agq": "adaptive quadrature is fit(nagq=9)",
    "control": "the optimiser is chosen by fit(method=, maxiter=, tol=)",
    "optimizer": "the optimiser is chosen by fit(method=)",
    "optimiser": "the optimiser is chosen by fit(method=)",
    "family": "a linear mixed model has no family; use glmer(..., family=)",
    "start": "a start is given by fit(start_theta=) or fit(start_params=)",
    "na_action": "rows with missing values are handled by missing='drop' or missing='raise'",
    "verbose": "progress is shown by disp=True or progress=True, where a method has it",
    "devfunonly": "the deviance as a function is model.criterion()",
    "re_form": "random effects are chosen by random='all', 'none' or a list of grouping factors",
    "re_form_": "random effects are chosen by random='all', 'none' or a list of grouping factors",
    "newdata": "new data are the first argument, exog=",
    "newx": "new data are the first argument, exog=",
    "type": "the scale is which='linear' or which='mean'",
    "se_fit": "standard errors are given by get_prediction(...).summary_frame()",
    "interval": "intervals are given by get_prediction(..., kind='confidence' or 'prediction').summary_frame()",
    "level": "coverage is given by alpha, which is 1 - level",
    "conf_level": "coverage is given by alpha, which is 1 - level",
    "nsim": "the number of replicates is n",
    "seed": "the source of randomness is rng",
    "ncpus": "the number of processes is n_jobs",
    "parallel": "the number of processes is n_jobs",
    "cores": "the number of processes is n_jobs",
    "parm": "the parameters are chosen by params; conf_int(parm=) takes R's word",
    "oldnames": "parameters are called as in the documentation of conf_int",
    "sigma2": "a known residual variance is resid_prior=ms.priors.Point(sd)",
    "lmer_df": "degrees of freedom are ddf='satterthwaite', ddf='kenward-roger' or ddf=None",
    "mode": "degrees of freedom are ddf='satterthwaite', ddf='kenward-roger' or ddf=None",
    "df": "degrees of freedom are ddf='satterthwaite', ddf='kenward-roger' or ddf=None",
    "exponentiate": "ratios are np.exp of the estimates and of the ends of their intervals",
    "conf_method": "the method of intervals is conf_int(method='wald', 'profile' or 'bootstrap')",
    "cov_miss": "the covariate of the mechanism is missing_cov",
    "sigma_diff": "a variance of its own for the first sample is first_sample_variance=True",
    "miss_y": "whether missingness depends on the outcome is missing_y",
    "zidx": "random effects are written in the formula: (1 + x || batch)",
    "admm": "the graphical lasso is fit(error_penalty=)",
    "lambda_": "the graphical lasso is fit(error_penalty=)",
    "nperm": "the number of permutations is n",
    "x": "columns with an effect of their own in every outcome are outcome_effects",
}

_EXAMPLES = {"reml": ": fit(reml=False)", "nagq": ": fit(nagq=9)"}

# R's words for the value of an option, whatever method takes it: option -> {folded word: ours}
R_VALUES: dict[str, dict[str, Any]] = {
    "ddf": {
        "satterthwaite": "satterthwaite",
        "satterth": "satterthwaite",
        "kenwardroger": "kenward-roger",
        "kr": "kenward-roger",
        "asymptotic": None,
        "lme4": None,
        "wald": None,
        "none": None,
    },
    "type": {"i": 1, "ii": 2, "iii": 3, "1": 1, "2": 2, "3": 3},
    "which": {"link": "linear", "response": "mean", "linear": "linear", "mean": "mean"},
    "method": {"boot": "bootstrap", "wald": "wald", "profile": "profile"},
    "random": {"all": "all", "none": "none"},
}
# words that would say something else in another method stay as they are: `method` is also an optimiser or an adjustment
_ONLY_IN = {"method": ("conf_int",)}

# statsmodels' and scipy's options of each optimiser, besides maxiter and disp
OPTIMISER_OPTIONS = {
    "newton": ("tol",),
    "lbfgs": ("maxcor", "ftol", "gtol", "eps", "maxfun", "maxls"),
    "tnc": (
        "eps",
        "scale",
        "offset",
        "maxfun",
        "eta",
        "stepmx",
        "accuracy",
        "minfev",
        "ftol",
        "xtol",
        "gtol",
        "rescale",
    ),
    "slsqp": ("ftol", "eps"),
    "nm": ("maxfev", "xatol", "fatol", "adaptive", "initial_simplex"),
    "powell": ("xtol", "ftol", "maxfev", "direc"),
    "bobyqa": ("maxfev", "f_target", "feasibility_tol", "initial_tr_radius", "final_tr_radius", "scale"),
}
# options of optimisers that are arrays or truth values
_NOT_NUMBERS = frozenset(("initial_simplex", "direc", "scale", "offset", "adaptive"))
_SAME_OPTIMISER = {"bfgs": "lbfgs", "l-bfgs-b": "lbfgs", "cobyqa": "bobyqa"}


@lru_cache(maxsize=256)
def parameter_names(function: Callable[..., Any]) -> tuple[str, ...]:
    """Names that a function or method takes as keywords."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(function).parameters.values()
    return tuple(p.name for p in parameters if p.kind in kinds and p.name not in ("self", "cls"))


@lru_cache(maxsize=64)
def constructor_options(cls: type) -> tuple[str, ...]:
    """Keyword-only options of a model's constructor and of those that it passes ``**kwargs`` on to."""
    names: dict[str, None] = {}
    for owner in cls.__mro__:
        if owner.__module__.startswith("statsmodels"):  # its constructors take anything
            break
        init = owner.__dict__.get("__init__")
        parameters = {} if init is None else inspect.signature(init).parameters
        names.update((p.name, None) for p in parameters.values() if p.kind is inspect.Parameter.KEYWORD_ONLY)
    return tuple(names)


# options of constructors that a formula stands for
_OF_ARRAYS = frozenset(("design", "exog_re", "hasconst", "part_designs"))


def shown_options(cls: _Class) -> _Class:
    """Let ``from_formula`` of a model show the options that it passes on, so that help and completion have them.

    `cls` has the method itself, or shows what its parent does.
    """
    method = cls.__dict__["from_formula"].__func__
    shown = {p.name: p for p in inspect.signature(method).parameters.values() if p.kind is not p.VAR_KEYWORD}
    for owner in cls.__mro__:
        if owner.__module__.startswith("statsmodels"):  # its constructors take anything
            break
        for name in ("from_formula", "__init__"):
            maker = owner.__dict__.get(name)
            function = getattr(maker, "__func__", maker)
            parameters = () if function is None else inspect.signature(function).parameters.values()
            own = {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in _OF_ARRAYS}
            shown = {**own, **shown}
    order = sorted(shown.values(), key=lambda p: p.kind)
    method.__signature__ = inspect.Signature(order)
    return cls


def refuse_unknown(what: str, given: Iterable[str], allowed: Iterable[str], elsewhere: str = "") -> None:
    """Fail where an option does not exist.

    Parameters
    ----------
    what : str
        Name of what was called, for the sentence.
    given, allowed : iterable of str
        Names of the options.
    elsewhere : str, optional
        Where to write the option instead, if the caller knows it.

    Raises
    ------
    UnknownOptionError
        Naming the first unknown option and, where there is one, the nearest allowed name or the word for R's.
    """
    allowed = tuple(allowed)
    for name in given:
        if name not in allowed:
            raise UnknownOptionError(f"{what}: unknown option {short(name)}; {elsewhere or hint(name, allowed)}")


def hint(name: str, allowed: tuple[str, ...]) -> str:
    """What to write instead of an unknown option."""
    folded = {_folded(other): other for other in allowed}
    if _folded(name) in folded:
        right = folded[_folded(name)]
        return f"{name} is spelled {right}{_EXAMPLES.get(right, '')}"
    r_word = R_SPELLINGS.get(name.lower().replace(".", "_").strip("_"))
    if r_word:
        return r_word
    near = get_close_matches(_folded(name), folded, n=1, cutoff=_FAR)
    if near:
        return f"did you mean {folded[near[0]]!r}?"
    return f"it takes {', '.join(allowed)}" if allowed else "it takes no further options"


def refuse_unknown_model_options(cls: Any, options: Iterable[str], formula: bool = True) -> None:
    """Fail where a model's ``from_formula`` (or its constructor, if not `formula`) gets an option that it has not.

    Raises
    ------
    UnknownOptionError
        Also saying where an option of ``fit`` belongs.
    """
    allowed = {"design", *constructor_options(cls), *(parameter_names(cls.from_formula) if formula else ())}
    wrong = next((name for name in options if name not in allowed), None)
    if wrong is None:
        return
    elsewhere = ""
    for own in parameter_names(cls.fit):
        if wrong.lower() == own:
            spelled = f"{own} is an option of fit" if wrong == own else f"{wrong} is spelled {own}"
            elsewhere = spelled + _EXAMPLES.get(own, f": fit({own}=)")
    shown = sorted(allowed - {"design", "exog_re", "hasconst", "eval_env", "drop_cols", "data", "formula"})
    refuse_unknown(cls.__name__, (wrong,), shown, elsewhere)


def optimiser_options(cls: type, method: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the optimiser, those that are None left out; fail where neither ``fit`` nor the optimiser has one.

    Parameters
    ----------
    cls : type
        Class of the model.
    method : str
        Optimiser.
    options : mapping
        What ``fit`` passes on to the optimiser.

    Raises
    ------
    OptionError
        If the optimiser is unknown.
    UnknownOptionError
    """
    known = (*OPTIMISER_OPTIONS, *_SAME_OPTIMISER)
    if not isinstance(method, str) or method not in known:
        raise OptionError(f"method must be one of {', '.join(sorted(known))}, got {short(method)}")
    if not options:
        return {}
    own = OPTIMISER_OPTIONS[_SAME_OPTIMISER.get(method, method)]
    what = f"{cls.__name__}.fit(method={method!r})"
    wrong = next((name for name in options if name not in own), None)
    elsewhere = ""
    if wrong in constructor_options(cls):
        elsewhere = f"it is an option of the model, not of its fit: give {wrong}= with the formula"
    refuse_unknown(what, options, (*parameter_names(cls.fit), *own), elsewhere)  # type: ignore[attr-defined]
    for name, value in options.items():
        if value is not None and name not in _NOT_NUMBERS and not is_number(value):
            raise OptionError(f"{name} must be a number, got {short(value)}")
    if "tol" in options:
        not_negative("tol", options["tol"])
    return {name: value for name, value in options.items() if value is not None}


class _Rules(NamedTuple):
    """What `strict` asks of the options of a function.

    Attributes
    ----------
    allowed : frozenset of str or None
        Names that are taken, None for any.
    spelled, places
        Words of R by option, and the positions of these options.
    kinds, checks
        Checks by option, and their positions.
    positions : list of str
        Names of what may be given by position.
    rest : str
        Name of what any further positions are.
    absent : frozenset of str
        Options whose default is None.
    """

    allowed: frozenset[str] | None
    spelled: dict[str, Any]
    places: tuple[tuple[int, str], ...]
    kinds: Mapping[str, Check]
    checks: tuple[tuple[int, str], ...]
    positions: list[str]
    rest: str
    absent: frozenset[str]


def _rules(function: Callable[..., Any], name: str) -> _Rules:
    """What `strict` asks of the options of a function that messages call `name`."""
    parameters = inspect.signature(function).parameters.values()
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
    allowed = frozenset(parameter_names(function))
    positions = [p.name for p in parameters if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    spelled = {key: words for key, words in R_VALUES.items() if key in allowed and name in _ONLY_IN.get(key, (name,))}
    places = tuple((positions.index(key), key) for key in spelled if key in positions)
    kinds = checked_kinds(parameters)
    checks = tuple((positions.index(key) if key in positions else _NOWHERE, key) for key in sorted(kinds))
    rest = next((p.name for p in parameters if p.kind is inspect.Parameter.VAR_POSITIONAL), "")
    absent = frozenset(p.name for p in parameters if p.default is None)
    return _Rules(None if takes_any else allowed, spelled, places, kinds, checks, positions, rest, absent)


def strict(function: _Callable, what: str | None = None) -> _Callable:
    """Let a function answer unknown options with `UnknownOptionError`, and values of the wrong kind with `OptionError`.

    R's words for values are understood.

    Parameters
    ----------
    function : callable
        With ``**options`` it must refuse what it does not know itself.
    what : str, optional
        How messages call it; its name by default.
    """
    name = what or function.__name__
    within_memory = guarded(function, name)
    rules: _Rules | None = None

    @wraps(function)
    def checked(*args: Any, **options: Any) -> Any:
        nonlocal rules
        if rules is None:  # signatures of some hundred methods would take a tenth of the time of an import
            rules = _rules(function, name)
        allowed, spelled, places, kinds, checks, positions, rest, absent = rules
        if options and allowed is not None and not allowed.issuperset(options):
            refuse_unknown(name, options, parameter_names(function))
        for key in spelled.keys() & options.keys():
            options[key] = _translated(spelled[key], options[key])
        for at, key in places:
            if at < len(args):
                args = (*args[:at], _translated(spelled[key], args[at]), *args[at + 1 :])
        for at, key in checks:
            if key in options:
                options[key] = kinds[key](key, options[key])
            elif at < len(args):
                args = (*args[:at], kinds[key](key, args[at]), *args[at + 1 :])
        given = [*zip_longest(positions[: len(args)], args, fillvalue=rest), *options.items()]
        for key, value in given:
            if key not in _HOLDERS:
                refuse_unreal(key, value)
        require_room(name)
        try:
            return within_memory(*args, **options)
        except BARE as error:
            unchecked = (pair for pair in given if pair[0] not in kinds and not (pair[1] is None and pair[0] in absent))
            said = blamed(error, name, unchecked)
            if said is None:
                raise
            raise said from error

    return checked  # type: ignore[return-value]


def strict_options(cls: _Class) -> _Class:
    """Make every public method of a class strict, inherited ones included; see `strict`.

    Properties answer memory that runs out with the same sentence as methods.
    """
    for name in dir(cls):
        owner = next((base for base in cls.__mro__ if name in base.__dict__), None)
        if name.startswith("_") or owner is None or owner is object:
            continue
        member = owner.__dict__[name]
        if isinstance(member, classmethod):
            if not hasattr(member.__func__, "__wrapped__"):
                setattr(cls, name, classmethod(strict(member.__func__)))
        elif inspect.isfunction(member) and not hasattr(member, "__wrapped__"):
            setattr(cls, name, strict(member))
        elif isinstance(member, property) and member.fget and not hasattr(member.fget, "__wrapped__"):
            setattr(cls, name, member.getter(guarded(member.fget, name)))
    return cls


def answering(cls: _Class) -> _Class:
    """Make the public methods that a class has of its own strict, and its constructor; see `strict`.

    For classes whose parents are not ours to change, such as frames.
    """
    for name, member in list(vars(cls).items()):
        function = member.__func__ if isinstance(member, classmethod) else member
        if isinstance(member, property) and member.fget and not name.startswith("_"):
            setattr(cls, name, member.getter(guarded(member.fget, name)))
        elif inspect.isfunction(function) and not hasattr(function, "__wrapped__"):
            if name == "__init__" and "__dataclass_fields__" not in vars(cls):
                cls.__init__ = strict(function, cls.__name__)  # type: ignore[misc]
            elif not name.startswith("_"):
                strict_one = strict(function)
                setattr(cls, name, classmethod(strict_one) if isinstance(member, classmethod) else strict_one)
    return cls


_NOWHERE = 10**6
# options that hold variables by name, of which an expression may use some
_HOLDERS = frozenset(("data", "eval_env", "namespace"))


def _translated(words: dict[str, Any], value: Any) -> Any:
    return words.get(_folded(value), value) if isinstance(value, str) else value


def _folded(text: str) -> str:
    return "".join(c for c in text.lower() if c.isalnum())
