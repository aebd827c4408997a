"""What several models say together: which can be combined, majority vote, mean probability; see also `staple`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from napari_medseg.bundles.model import Model
from napari_medseg.case import InputError

LabelArray = npt.NDArray[Any]
Method = Literal["mean", "vote", "staple"]


def label_ids(model: Model) -> range:
    """The ids that a model of classes may give."""
    return range(1, model.out_channels + (0 if model.threshold is None else 1))


def require_combinable(models: Sequence[Model], method: str) -> None:
    """Refuse models whose labels, or for the mean whose probabilities, do not mean the same.

    Raises
    ------
    InputError
        If the method is unknown, there are fewer than 2 models, one finds objects, or their labels differ; for the
        mean also if they do not give probabilities or decide by different rules.
    """
    if method not in get_args(Method):
        raise InputError(f"Models cannot be combined by {method!r}; accepted are {', '.join(get_args(Method))}.")
    if len(models) < 2:
        raise InputError(
            f"An ensemble is made of at least 2 models and this run has {len(models)}; name more, or leave it out."
        )
    for model in models:
        if model.instances is not None:
            raise InputError(
                f"Model {model.card.id} finds objects, whose ids mean nothing to other models; leave it out of the "
                f"ensemble, or run the models without one and compare their objects."
            )
        _require_same_labels(models[0], model)
        if method == "mean":
            _require_same_rule(models[0], model)
    if method == "mean" and models[0].activation == "none":
        raise InputError(f"Model {models[0].card.id} does not say that it gives probabilities; take the vote instead.")


def _require_same_labels(first: Model, other: Model) -> None:
    mine, theirs = ({i: m.card.labels.name(i) for i in label_ids(m)} for m in (first, other))
    for i in sorted(mine.keys() | theirs.keys()):
        if mine.get(i) != theirs.get(i):
            raise InputError(
                f"Label {i} is {mine.get(i, 'unknown')} to model {first.card.id} and {theirs.get(i, 'unknown')} to "
                f"model {other.card.id}; an ensemble is made of models with the same labels."
            )


def _require_same_rule(first: Model, other: Model) -> None:
    if (first.activation, first.threshold) != (other.activation, other.threshold):
        raise InputError(
            f"Models {first.card.id} and {other.card.id} decide by different rules ({_rule(first)}; {_rule(other)}), "
            f"and so their probabilities have no mean; take the vote instead."
        )


def _rule(model: Model) -> str:
    how = "the largest wins" if model.threshold is None else f"threshold {model.threshold:g}"
    return f"{model.activation}, {how}"


def majority_vote(blocks: Sequence[LabelArray]) -> LabelArray:
    """For each voxel the id that most models gave.

    If several ids have equally many votes, the one of them that the first-listed model gave wins; the order of the
    models decides ties and nothing else. Ids must mean the same in all blocks: those of separate objects do not.

    Parameters
    ----------
    blocks
        One array of integer ids a model, all of one shape. Background, 0, has a vote like any other id.

    Returns
    -------
    ndarray
        Same shape and dtype; for different dtypes the smallest that holds both.

    Raises
    ------
    InputError
        If there is no block, shapes differ, or values are not integers.
    """
    dtype = common_dtype(blocks)
    votes = [np.ones(blocks[0].shape, np.uint16) for _ in blocks]
    for one in range(len(blocks)):
        for other in range(one + 1, len(blocks)):
            same = blocks[one] == blocks[other]
            votes[one] += same
            votes[other] += same
    winner, most = blocks[0].astype(dtype), votes[0]
    for block, given in zip(blocks[1:], votes[1:], strict=True):
        more = given > most
        np.copyto(winner, block, where=more, casting="same_kind")
        np.maximum(most, given, out=most)
    return winner


def mean_probabilities(
    blocks: Sequence[npt.NDArray[Any]], weights: Sequence[float] | None = None
) -> npt.NDArray[np.float32]:
    """Mean of probability maps ``(c, ...)``, one a model, as float32.

    Parameters
    ----------
    blocks
        Maps of one shape.
    weights
        Importance of each model, 0 or more; only their ratios matter. All equal when ``None``.

    Raises
    ------
    InputError
        If there is no block, shapes differ, or the weights are negative, all 0, no numbers, or not one a model.
    """
    _same_shape(blocks)
    shares = np.ones(len(blocks)) if weights is None else np.asarray(weights, np.float64)
    if shares.shape != (len(blocks),) or not np.isfinite(shares).all() or shares.min() < 0 or shares.sum() == 0:
        raise InputError(
            f"Weights {', '.join(f'{w:g}' for w in shares.ravel())} cannot be used for {len(blocks)} models; accepted "
            f"is one number a model, none below 0 and not all 0."
        )
    total = np.zeros(blocks[0].shape, np.float64)
    for block, share in zip(blocks, shares / shares.sum(), strict=True):
        # a model without a say must not spread its nan
        if share > 0:
            total += share * block
    return total.astype(np.float32)


def _same_shape(blocks: Sequence[Any]) -> None:
    if not blocks:
        raise InputError("There is nothing to combine; give at least one segmentation.")
    shapes = [tuple(block.shape) for block in blocks]
    for shape in shapes:
        if shape != shapes[0]:
            raise InputError(f"Shapes {shapes[0]} and {shape} differ; only what lies on one grid can be combined.")


def common_dtype(blocks: Sequence[LabelArray]) -> np.dtype[Any]:
    """The dtype that holds the ids of all blocks exactly.

    Raises
    ------
    InputError
        If there is no block, shapes differ, or values are not integers.
    """
    _same_shape(blocks)
    dtype = np.result_type(*(block.dtype for block in blocks))
    if not np.issubdtype(dtype, np.integer):
        kinds = ", ".join(sorted({str(block.dtype) for block in blocks}))
        raise InputError(f"Values of {kinds} are not ids of one kind; accepted are integers of one kind.")
    return dtype
