"""Contrasts, in the ways users write them, as weights of the design's columns."""

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from chunkglm._types import AnyArray, FloatArray
from chunkglm.design._expression import parse_expression
from chunkglm.design._messages import list_names, quote, suggest
from chunkglm.errors import ContrastError

StatType = Literal["t", "F"]
ContrastDefinition = (
    str | Mapping[str, float] | Sequence[str] | Sequence[float] | Sequence[Sequence[float]]
) | AnyArray


@dataclass(frozen=True, slots=True, eq=False)
class ContrastWeights:
    """A contrast as numbers.

    Parameters
    ----------
    weights : (q, k) float64 array
        One row per tested combination, one weight per column of the design; read-only.
    stat_type : {"t", "F"}
        The statistic; ``"t"`` has one row.
    label : str
        How the user wrote it, for titles and messages.
    """

    weights: FloatArray
    stat_type: StatType
    label: str

    def __post_init__(self) -> None:
        weights = np.array(self.weights, dtype=np.float64, order="C", ndmin=2)
        weights.flags.writeable = False
        object.__setattr__(self, "weights", weights)


def named_contrasts(definition: Any) -> dict[str, Any] | None:
    """Return the definitions of several contrasts by name, or None where there is only one.

    A dict of numbers holds the weights of one contrast, by column; any other holds definitions.

    Parameters
    ----------
    definition : Any
        As a user gave it.

    Returns
    -------
    dict or None

    Raises
    ------
    ContrastError
        When a dict mixes weights and definitions, or a name is no text.
    """
    if not isinstance(definition, Mapping) or not definition:
        return None
    weights = [isinstance(value, (numbers.Real, np.bool_)) for value in definition.values()]
    if all(weights):
        return None
    keys = list(definition)
    if any(weights):
        raise ContrastError(
            f"contrast {quote(_label(dict(definition)))} mixes weights by column "
            f"({quote(keys[weights.index(True)])}) and definitions by name "
            f"({quote(keys[weights.index(False)])}); give a dict of either"
        )
    odd = [key for key in keys if not isinstance(key, str) or not key.strip()]
    if odd:
        raise ContrastError(f"names of contrasts must be text, but got {odd[0]!r}")
    names = [key.strip() for key in keys]
    if len(set(names)) < len(names):
        raise ContrastError(f"names of contrasts must differ, but got: {list_names(keys)}")
    return dict(zip(names, definition.values(), strict=True))


def parse_contrast(
    definition: ContrastDefinition,
    names: Sequence[str],
    *,
    stat_type: StatType | None = None,
    source: str = "the design",
) -> ContrastWeights:
    """Return the weights of a contrast.

    An expression holds numbers, column names, ``+ - * /`` and parentheses, and is parsed, never
    evaluated. A whole expression that equals a column name is that column. Elsewhere the
    longest column name (or number) that fits is read, and of a name and a number of one length
    the name: with the columns ``a``, ``b`` and ``a-b``, ``2*a-b`` is twice the column ``a-b``.
    Back-quotes tell such names apart: ``2*`a` - `b```. With columns called ``1`` and ``2``, the
    number two is written ``2.0``.

    Parameters
    ----------
    definition : str, sequence, array or dict
        An expression; k weights; a (q, k) matrix; a list of q expressions; or a dict of
        weights by column, the others being 0.
    names : sequence of k str
        The design's column names.
    stat_type : {"t", "F"}, optional
        By default ``"t"`` for one row and ``"F"`` for more.
    source : str
        What a message calls the design.

    Returns
    -------
    ContrastWeights
        The weights, statistic and label.

    Raises
    ------
    ContrastError
        When it cannot be read, is zero or not finite, has the wrong number of weights (none
        are filled in), or has rows that depend on one another.

    Examples
    --------
    >>> parse_contrast("(face + house) / 2 - rest", ["face", "house", "rest"]).weights
    array([[ 0.5,  0.5, -1. ]])
    """
    if stat_type not in (None, "t", "F"):
        raise ContrastError(f"stat_type must be 't' or 'F', but got {stat_type!r}")
    names = tuple(str(name) for name in names)
    if len(set(names)) < len(names) or not names:
        raise ContrastError(
            f"{source} must have columns, each with a name of its own, but has: {list_names(names)}"
        )
    weights, label = _read(definition, names, source)
    _check_weights(weights, label, names, source)
    if stat_type == "t" and len(weights) > 1:
        raise ContrastError(
            f"contrast {quote(label)} has {len(weights)} rows, but a t statistic has one; "
            "use stat_type='F', or give each row as a contrast of its own"
        )
    kind: StatType = "F" if stat_type == "F" or len(weights) > 1 else "t"
    return ContrastWeights(weights, kind, label)


def _read(definition: Any, names: tuple[str, ...], source: str) -> tuple[FloatArray, str]:
    """Return (q, k) weights, and how the user wrote them."""
    if isinstance(definition, np.ndarray) and definition.dtype.kind == "U":
        definition = definition.tolist()
    if isinstance(definition, str):
        return _of_expressions([definition], names, source), definition.strip()
    if isinstance(definition, Mapping):
        return _of_mapping(definition, names, source), _label(dict(definition))
    # Weights labelled otherwise (a pandas Series) are in no order to rely on: no guess is made.
    listed = isinstance(definition, (Sequence, np.ndarray))
    if not listed or isinstance(definition, (bytes, bytearray)):
        raise ContrastError(
            "a contrast must be an expression, a vector, a matrix, a list of expressions or a "
            f"dict, but got {type(definition).__name__}"
        )
    rows = [] if isinstance(definition, np.ndarray) else list(definition)
    if rows and all(isinstance(row, str) for row in rows):
        return _of_expressions(rows, names, source), ", ".join(row.strip() for row in rows)
    label = _label(definition)
    return _of_array(definition, label), label


def _of_expressions(expressions: Sequence[str], names: tuple[str, ...], source: str) -> FloatArray:
    weights = np.zeros((len(expressions), len(names)))
    for row, expression in zip(weights, expressions, strict=True):
        for j, weight in parse_expression(expression, names, source).items():
            row[j] = weight + 0.0  # no -0.0 in what users see
    return weights


def _of_mapping(definition: Mapping[Any, Any], names: tuple[str, ...], source: str) -> FloatArray:
    weights = np.zeros((1, len(names)))
    for name, weight in definition.items():
        if name not in names:
            raise ContrastError(
                f"contrast {quote(_label(dict(definition)))} has no column {quote(name)}"
                f"{suggest(str(name), names)}; the columns of {source} are: {list_names(names)}"
            )
        if not isinstance(weight, (numbers.Real, np.bool_)):
            raise ContrastError(
                f"contrast {quote(_label(dict(definition)))}: the weight of {quote(name)} must "
                f"be a real number, but got {weight!r}"
            )
        try:
            weights[0, names.index(name)] = float(weight)
        except OverflowError:
            weights[0, names.index(name)] = math.inf
    return weights


def _of_array(definition: Any, label: str) -> FloatArray:
    try:
        array = np.asarray(definition)
    except ValueError as error:
        raise ContrastError(
            f"contrast {quote(label)} is ragged; give every row one weight per column"
        ) from error
    if array.dtype.kind not in "biuf" or np.ma.is_masked(definition):
        raise ContrastError(
            f"contrast {quote(label)} must hold real numbers (or expressions only), but its "
            f"type is {array.dtype}; give one number per column"
        )
    if array.ndim not in (1, 2):
        raise ContrastError(
            f"contrast {quote(label)} must be a vector or a matrix, but has shape {array.shape}"
        )
    # A long double beyond float64 becomes inf, which is refused by name.
    with np.errstate(over="ignore"):
        return np.atleast_2d(array.astype(np.float64))


def _check_weights(weights: FloatArray, label: str, names: tuple[str, ...], source: str) -> None:
    """Refuse weights that test nothing, or that the design's columns do not fit."""
    q, k = weights.shape
    if weights.size == 0:
        raise ContrastError(f"contrast {quote(label)} is empty; give one weight per column")
    if k != len(names):
        raise ContrastError(
            f"contrast {quote(label)} has {k} weights, but {source} has {len(names)} columns: "
            f"{list_names(names)}; give one weight per column (0 where not used), or an expression"
        )
    if not np.isfinite(weights).all():
        row, j = np.argwhere(~np.isfinite(weights))[0]
        raise ContrastError(
            f"contrast {quote(label)} has the weight {weights[row, j]:g} for {quote(names[j])}; "
            "give finite numbers"
        )
    zero = np.flatnonzero(~weights.any(axis=1))
    if zero.size:
        where = "" if q == 1 else f" in row {zero[0]} (counted from 0)"
        raise ContrastError(
            f"contrast {quote(label)} is zero{where}, so it tests nothing; give a weight other "
            "than 0"
        )
    # Rows and columns are scaled first: whether 1e-9*(a - b) is a combination of others is not
    # about size, nor is it about the units of a and b.
    scaled = weights / np.abs(weights).max(axis=1, keepdims=True)
    largest = np.abs(scaled).max(axis=0)
    scaled /= np.where(largest > 0, largest, 1.0)
    rank = int(np.linalg.matrix_rank(scaled)) if q > 1 else 1
    if rank < q:
        raise ContrastError(
            f"contrast {quote(label)} has {q} rows but rank {rank}: some follow from the "
            "others; leave those out"
        )


def _label(definition: Any) -> str:
    """Return weights as a user would write them, whatever holds them."""
    if isinstance(definition, dict):
        return ", ".join(f"{name}: {_label(weight)}" for name, weight in definition.items())
    if isinstance(definition, (np.ndarray, np.generic)):
        definition = definition.tolist()
    if isinstance(definition, (list, tuple)):
        return f"[{', '.join(_label(item) for item in definition)}]"
    if isinstance(definition, float):
        return f"{definition:.6g}"
    return str(definition)
