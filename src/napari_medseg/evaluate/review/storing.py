"""A review is kept with the labels it is about: in our label store, or in a file beside theirs."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from napari_medseg.case import InputError
from napari_medseg.evaluate.review.queue import ReviewQueue
from napari_medseg.evaluate.review.region import RegionRules
from napari_medseg.io.ome_zarr import label_names, metadata
from napari_medseg.jobs import Progress

_KEY = "review"
_VERSION = 1


def review_path(labels: Path) -> Path:
    """Where the review of the labels at `labels` is kept.

    Returns
    -------
    path
        The folder of the label image if it lies in an OME-Zarr store of ours, whose attribute ``medseg.review`` then
        holds the review; else ``NAME.review.json`` beside the labels.

    Raises
    ------
    InputError
        If there is nothing at `labels`, or a store with several label images.
    """
    if not labels.exists():
        raise InputError(f"{labels.name}: there are no such labels to keep a review with; save the labels first.")
    if labels.is_dir():
        group = labels if labels.parent.name == "labels" else _only_labels(labels)
        if group is not None and metadata.split_attributes(_attributes(group))[1]:
            return group
    return labels.with_name(f"{labels.name}.review.json")


def save_review(queue: ReviewQueue, labels: Path, *, overwrite: bool = False) -> Path:
    """Keep a review with its candidate's labels; what was there is replaced in one step or not at all.

    It holds numbers, states and notes, and checksums of the labels; no names of files, images or patients unless
    somebody wrote them into a note.

    Parameters
    ----------
    queue
        The review.
    labels
        The candidate's file or store.
    overwrite
        Whether a review against another reference may be replaced.

    Returns
    -------
    path
        See `review_path`.

    Raises
    ------
    InputError
        If a review against another reference is there, or it cannot be written.
    """
    path = review_path(labels)
    record = {"version": _VERSION, **queue.to_dict()}
    old = _stored(path)
    if old is not None and not overwrite and old.get("reference_sha256") != record["reference_sha256"]:
        raise InputError(
            f"{labels.name}: a review against another reference is kept with it; allow overwriting to replace it."
        )
    try:
        if path.is_dir():
            import zarr

            group = zarr.open_group(path, mode="r+")
            private = metadata.split_attributes(group.attrs.asdict())[1]
            group.attrs.update({metadata.PRIVATE: {**private, _KEY: record}})
        else:
            _write(path, json.dumps(record, indent=1, ensure_ascii=False))
    except PermissionError as error:
        raise InputError(
            f"{labels.name}: no permission to keep a review here; copy the labels to another folder."
        ) from (error)
    return path


def open_review(
    labels: Path,
    candidate: Any,
    reference: Any,
    *,
    uncertainty: Any = None,
    progress: Progress | None = None,
) -> ReviewQueue | None:
    """The review that is kept with `labels`, or ``None`` if there is none.

    The regions are found anew, by the rules of the review, and take their numbers, states and notes from it.

    Parameters
    ----------
    labels
        The candidate's file or store.
    candidate, reference
        The labels that are looked at: integer arrays.
    uncertainty, progress
        As for `ReviewQueue.start`.

    Raises
    ------
    InputError
        If it was made for other labels, or is damaged.
    """
    path = review_path(labels)
    record = _stored(path)
    if record is None:
        return None
    try:
        version, shape = record["version"], tuple(record["shape"])
        digests = {side: record[f"{side}_sha256"] for side in ("candidate", "reference")}
        rules = RegionRules.from_dict(record["rules"])
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(labels) from error
    if version != _VERSION:
        raise InputError(f"{labels.name}: its review is of version {version}; this version reads {_VERSION}.")
    for side, array in (("candidate", candidate), ("reference", reference)):
        if tuple(array.shape) != shape:
            raise InputError(
                f"{labels.name}: its review was made for labels of shape {shape} and the {side} has "
                f"{tuple(array.shape)}; choose the labels it was made for, or start a new review."
            )
    queue = ReviewQueue.start(candidate, reference, rules, uncertainty=uncertainty, progress=progress)
    for side, contents in (("candidate", queue.candidate), ("reference", queue.reference)):
        if contents.digest != digests[side]:
            raise InputError(
                f"{labels.name}: its review was made for another {side}, or the {side} was edited since; choose the "
                "labels it was made for, or start a new review."
            )
    try:
        return queue.with_records(record)
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(labels) from error


def _damaged(labels: Path) -> InputError:
    return InputError(f"{labels.name}: its review is damaged and cannot be read; start a new review.")


def _only_labels(store: Path) -> Path | None:
    names = label_names(store)
    if len(names) > 1:
        raise InputError(
            f"{store.name}: holds {len(names)} label images ({', '.join(names)}); name the one that is reviewed, e.g. "
            f"{store.name}/labels/{names[0]}."
        )
    return store / "labels" / names[0] if names else None


def _attributes(group: Path) -> Mapping[str, Any]:
    import zarr

    try:
        found: Mapping[str, Any] = zarr.open_group(group, mode="r").attrs.asdict()
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {}
    return found


def _stored(path: Path) -> dict[str, Any] | None:
    if path.is_dir():
        record = metadata.split_attributes(_attributes(path))[1].get(_KEY)
    elif path.exists():
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{path.name}: cannot be read as a review; remove it to start a new one.") from error
    else:
        return None
    if record is not None and not isinstance(record, dict):
        raise InputError(f"{path.name}: holds no review where one was expected; remove it to start a new one.")
    return record


def _write(path: Path, text: str) -> None:
    """Write beside, force to the disk, rename."""
    temporary = path.with_name(f".{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
