"""Divide a manifest of labelled images by patient or slide, never within one."""

from __future__ import annotations

import csv
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from napari_medseg.case import InputError

Part = Literal["train", "tune", "report"]
PARTS: tuple[Part, ...] = ("train", "tune", "report")


def assign_parts(
    groups: Mapping[str, str], tune: Mapping[str, int], report: Mapping[str, int], seed: int
) -> dict[str, Part]:
    """Assign every group to one part, drawn at random inside its stratum.

    Parameters
    ----------
    groups
        Stratum of each group, for instance the stain of each parent slide.
    tune, report
        How many groups of each stratum to hold out; a stratum that is not named gives none.
    seed
        The same seed and the same groups of a stratum give the same parts, whatever else the manifest holds.

    Returns
    -------
    dict
        Part of each group; all that is not held out is ``"train"``.
    """
    parts: dict[str, Part] = {}
    for stratum in sorted(set(groups.values())):
        members = sorted(name for name, other in groups.items() if other == stratum)
        generator = np.random.default_rng([seed, zlib.crc32(stratum.encode())])
        order = [members[i] for i in generator.permutation(len(members))]
        n_report, n_tune = report.get(stratum, 0), tune.get(stratum, 0)
        if n_report + n_tune >= len(members):
            raise InputError(
                f"stratum {stratum!r} has {len(members)} groups, too few to hold out {n_report} + {n_tune} of them"
            )
        for position, name in enumerate(order):
            held_out: Part = "report" if position < n_report else "tune" if position < n_report + n_tune else "train"
            parts[name] = held_out
    return parts


def manifest_records(
    manifest: str | Path,
    part: Part | Literal["all"] = "all",
    group: str = "image",
    stratum: str | None = None,
    tune: Mapping[str, int] | None = None,
    report: Mapping[str, int] | None = None,
    seed: int = 0,
) -> list[dict[str, str]]:
    """Read the rows of one part of a manifest.

    Parameters
    ----------
    manifest
        CSV file with at least the columns ``image`` and ``label``, paths relative to the file.
    part
        ``"train"``, ``"tune"``, ``"report"`` or ``"all"``.
    group
        Column whose value is shared by images that must stay together (patient, slide).
    stratum
        Column to draw within; without one all groups form the stratum ``""``.
    tune, report, seed
        See `assign_parts`.

    Returns
    -------
    list of dict
        One dict a row, all columns as text, with ``image`` and ``label`` as full paths and ``stratum``.
    """
    path = Path(manifest)
    if not path.is_file():
        raise InputError(f"{path} is not there; a manifest.csv with the columns image and label is expected")
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    needed = {"image", "label", group} | ({stratum} if stratum else set())
    missing = needed - set(rows[0] if rows else ())
    if missing:
        raise InputError(f"{path} lacks the column {sorted(missing)[0]!r}")
    for row in rows:
        row["stratum"] = row[stratum] if stratum else ""
        row["image"], row["label"] = str(path.parent / row["image"]), str(path.parent / row["label"])
    key = "image" if group == "image" else group
    names = {row[key]: Path(row[key]).name if group == "image" else row[key] for row in rows}
    parts = assign_parts({names[row[key]]: row["stratum"] for row in rows}, tune or {}, report or {}, seed)
    return [row for row in rows if part in ("all", parts[names[row[key]]])]
