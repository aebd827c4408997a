"""A random forest on filter features: fitted from scribbles, kept as plain arrays, evaluated by our own few lines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError

from napari_medseg.case import InputError
from napari_medseg.classical.features import FeatureParameters, slabs
from napari_medseg.classical.pixels import Array, Labels

_FORMAT = "napari-medseg forest 1"
# pixels that are evaluated together: a few numbers for each stay in the processor's cache
_TOGETHER = 1 << 16


class ForestParameters(FeatureParameters):
    """Parameters of `fit_forest` and `random_forest`."""

    trees: int = Field(default=100, ge=1, le=1000, description="Number of trees.")
    depth: int = Field(default=12, ge=1, le=40, description="Questions from a tree's root to a leaf at most.")
    leaf: int = Field(default=2, ge=1, le=10_000, description="Pixels in a leaf at least.")
    balanced: bool = Field(default=True, description="Whether every class weighs alike however much was labelled.")
    most: int = Field(
        default=20_000,
        ge=10,
        le=10_000_000,
        description="Labelled pixels of each class to learn from, drawn at random.",
    )
    dense: bool = Field(default=False, description="Whether 0 in the labels is background; if not, it is unlabelled.")
    background: int | None = Field(
        default=None, ge=1, le=2**31 - 1, description="Label that was drawn on background and comes out as 0."
    )
    seed: int = Field(default=0, ge=0, le=2**31 - 1, description="Seed of the random numbers.")


@dataclass(frozen=True)
class Forest:
    """A fitted forest. All trees' nodes lie one after the other; a leaf has -1 as its children.

    Parameters
    ----------
    roots
        int32 ``(trees,)``: node where each tree begins.
    left, right
        int32 ``(nodes,)``: node to go on with where the feature is at most the threshold, and where not.
    feature
        int32 ``(nodes,)``: number of the feature that is asked for.
    threshold
        float64 ``(nodes,)``.
    chances
        float64 ``(nodes, classes)``: share of each class; only leaves' are read.
    classes
        int32 ``(classes,)``: labels.
    channels
        Channels of the images that it was fitted on.
    parameters
        What it was fitted with.
    """

    roots: npt.NDArray[np.int32]
    left: npt.NDArray[np.int32]
    right: npt.NDArray[np.int32]
    feature: npt.NDArray[np.int32]
    threshold: npt.NDArray[np.float64]
    chances: npt.NDArray[np.float64]
    classes: npt.NDArray[np.int32]
    channels: int
    parameters: ForestParameters

    def probabilities(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Mean over the trees of the classes' shares in the leaf, ``(samples, classes)``.

        Parameters
        ----------
        features
            float32 ``(samples, features)``.
        """
        total = np.zeros((len(features), len(self.classes)))
        for root in self.roots:
            node = np.full(len(features), root, np.int32)
            moving = np.arange(len(features))
            while moving.size:
                at = node[moving]
                inner = self.left[at] >= 0
                moving, at = moving[inner], at[inner]
                goes_left = features[moving, self.feature[at]] <= self.threshold[at]
                node[moving] = np.where(goes_left, self.left[at], self.right[at])
            total += self.chances[node]
        mean: npt.NDArray[np.float64] = total / len(self.roots)
        return mean

    def save(self, path: str | Path) -> None:
        """Write it as safetensors; the parameters are its metadata."""
        from safetensors.numpy import save_file

        about = {"format": _FORMAT, "channels": str(self.channels), "parameters": self.parameters.model_dump_json()}
        save_file({name: np.ascontiguousarray(getattr(self, name)) for name in _ARRAYS}, path, about)

    @classmethod
    def load(cls, path: str | Path) -> Forest:
        """Read what `save` wrote; nothing in the file is run.

        Raises
        ------
        InputError
            It is no such file, or what it holds is no forest.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                about = file.metadata() or {}
                if about.get("format") != _FORMAT:
                    raise InputError(f"{path} holds no random forest of this program")
                arrays = {name: file.get_tensor(name) for name in _ARRAYS}
            parameters = ForestParameters(**json.loads(about["parameters"]))
            forest = cls(**arrays, channels=int(about["channels"]), parameters=parameters)
        except (SafetensorError, ValidationError, ValueError, TypeError, KeyError) as error:
            raise InputError(f"{path} is no random forest that can be read") from error
        forest._check(path)
        return forest

    def _check(self, path: str | Path) -> None:
        """Whether every walk from a root ends in a leaf and asks only for features that there are."""
        nodes = np.arange(len(self.left))
        inner = self.left >= 0
        sound = (
            all(
                getattr(self, name).dtype == kind and getattr(self, name).ndim == n
                for name, (kind, n) in _ARRAYS.items()
            )
            and self.left.shape == self.right.shape == self.feature.shape == self.threshold.shape
            and self.chances.shape == (len(nodes), len(self.classes))
            and len(self.roots) > 0
            and len(self.classes) > 0
            and bool(((self.roots >= 0) & (self.roots < len(nodes))).all())
            # children lie after their parent, so no walk comes back
            and bool((self.left[inner] > nodes[inner]).all() and (self.right[inner] > nodes[inner]).all())
            and bool((self.left < len(nodes)).all() and (self.right < len(nodes)).all())
            and bool(((self.feature[inner] >= 0) & (self.feature[inner] < self.parameters.count(self.channels))).all())
        )
        if not sound:
            raise InputError(f"{path} is damaged: its trees do not end")


_ARRAYS = {
    "roots": (np.dtype(np.int32), 1),
    "left": (np.dtype(np.int32), 1),
    "right": (np.dtype(np.int32), 1),
    "feature": (np.dtype(np.int32), 1),
    "threshold": (np.dtype(np.float64), 1),
    "chances": (np.dtype(np.float64), 2),
    "classes": (np.dtype(np.int32), 1),
}


def fit_forest(
    images: Sequence[Array], labels: Sequence[Array], *, parameters: ForestParameters | None = None
) -> Forest:
    """Learn classes from labelled pixels, with scikit-learn.

    Memory: the features of one slab of an image at a time (see `slabs`), those of the labelled pixels, and all labels.

    Parameters
    ----------
    images
        Each ``(*spatial)`` or ``(c, *spatial)``. Their scale is kept, so later images need the same; or
        `standardise` them.
    labels
        Integers ``(*spatial)`` each: scribbles, or whole label maps with `dense`.
    parameters
        The defaults without.

    Raises
    ------
    InputError
        scikit-learn is missing, images and labels do not fit, or fewer than two classes are labelled.
    """
    try:
        from sklearn.ensemble import RandomForestClassifier
    except ImportError as error:
        raise InputError('Fitting a random forest needs scikit-learn: pip install "napari-medseg[zoo]".') from error

    chosen = parameters or ForestParameters()
    if not images or len(images) != len(labels):
        raise InputError(f"{len(images)} images and {len(labels)} label maps were given; one each is needed")
    known, classes, channels = _labelled(images, labels, chosen)
    model = RandomForestClassifier(
        n_estimators=chosen.trees,
        max_depth=chosen.depth,
        min_samples_leaf=chosen.leaf,
        class_weight="balanced" if chosen.balanced else None,
        random_state=chosen.seed,
        n_jobs=1,
    ).fit(known, classes)
    return _forest(model, channels, chosen)


def random_forest(
    image: Array,
    *,
    parameters: ForestParameters | None = None,
    scribbles: Array | None = None,
    forest: Forest | None = None,
) -> Labels:
    """The most probable class of each pixel, by a fitted forest or one that is fitted from scribbles on this image.

    Memory: the features of one slab at a time (see `slabs`) and the labels, 4 bytes a pixel.

    Parameters
    ----------
    image
        ``(*spatial)`` or ``(c, *spatial)`` in the scale that the forest was fitted on.
    parameters
        For fitting; the defaults without. A fitted forest brings its own.
    scribbles
        Integers ``(*spatial)``, 0 where nothing is drawn.
    forest
        A fitted forest.

    Returns
    -------
    int32 ``(*spatial)``: the labels that were drawn; the smallest where chances are equal.

    Raises
    ------
    InputError
        Neither or both of scribbles and forest are given, or something does not fit.
    """
    if (scribbles is None) == (forest is None):
        raise InputError("a random forest needs either scribbles on the image or a fitted forest")
    if forest is None:
        assert scribbles is not None
        forest = fit_forest([image], [scribbles], parameters=parameters)
    chosen = forest.parameters
    found = image.shape[0] if image.ndim == chosen.spatial_dims + 1 else 1
    if found != forest.channels:
        raise InputError(f"the image has {found} channels; the forest was fitted on {forest.channels}")
    result = np.zeros(image.shape[image.ndim - chosen.spatial_dims :], np.int32)
    names = np.where(forest.classes == (chosen.background or 0), 0, forest.classes)
    for rows, features in slabs(image, chosen):
        flat = features.reshape(-1, features.shape[-1])
        best = np.empty(len(flat), np.int32)
        for first in range(0, len(flat), _TOGETHER):
            part = slice(first, first + _TOGETHER)
            best[part] = names[forest.probabilities(flat[part]).argmax(1)]
        result[rows] = best.reshape(features.shape[:-1])
    return result


def _labelled(
    images: Sequence[Array], labels: Sequence[Array], chosen: ForestParameters
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32], int]:
    """Features and classes of the pixels to learn from, and the images' number of channels."""
    random = np.random.default_rng(chosen.seed)
    dims = chosen.spatial_dims
    for image, label in zip(images, labels, strict=True):
        if label.shape != image.shape[image.ndim - dims :]:
            raise InputError(f"labels are {label.shape} while their image is {image.shape}; one grid is needed")
        if not np.issubdtype(label.dtype, np.integer) and label.dtype != bool:
            raise InputError(f"labels are whole numbers; {label.dtype} was given")
    found = {image.shape[0] if image.ndim == dims + 1 else 1 for image in images}
    if len(found) > 1:
        raise InputError(f"the images have {', '.join(map(str, sorted(found)))} channels; one number is needed")
    every = np.concatenate([np.ravel(label) for label in labels]).astype(np.int32)
    present = np.unique(every) if chosen.dense else np.setdiff1d(every, [0])
    if len(present) < 2:
        raise InputError(f"{len(present)} classes are labelled; at least two are needed, background being one")
    taken = np.zeros(every.shape, bool)
    for value in present:
        where = np.flatnonzero(every == value)
        taken[where if len(where) <= chosen.most else random.choice(where, chosen.most, replace=False)] = True
    parts, start = [], 0
    for image, label in zip(images, labels, strict=True):
        wanted = taken[start : start + label.size].reshape(label.shape)
        start += label.size
        parts += [features[wanted[rows]] for rows, features in slabs(image, chosen)]
    return np.concatenate(parts), every[taken], found.pop()


def _forest(model: object, channels: int, chosen: ForestParameters) -> Forest:
    """The fitted trees of scikit-learn as plain arrays."""
    trees = [tree.tree_ for tree in model.estimators_]  # type: ignore[attr-defined]
    roots = np.cumsum([0, *(t.node_count for t in trees)])[:-1]

    def moved(name: str) -> npt.NDArray[np.int32]:
        children = [np.where((c := getattr(t, name)) < 0, -1, c + r) for t, r in zip(trees, roots, strict=True)]
        return np.concatenate(children).astype(np.int32)

    values = np.concatenate([t.value[:, 0, :] for t in trees])
    return Forest(
        roots=roots.astype(np.int32),
        left=moved("children_left"),
        right=moved("children_right"),
        feature=np.concatenate([t.feature for t in trees]).astype(np.int32),
        threshold=np.concatenate([t.threshold for t in trees]).astype(np.float64),
        # older releases of scikit-learn keep counts here, newer ones shares
        chances=values / values.sum(1, keepdims=True),
        classes=np.asarray(model.classes_, np.int32),  # type: ignore[attr-defined]
        channels=channels,
        parameters=chosen,
    )
