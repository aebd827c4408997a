"""Put a report together and write it."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

from napari_medseg import __version__
from napari_medseg.case import InputError, MedicalImage, Segmentation
from napari_medseg.evaluate.compare import Comparison
from napari_medseg.evaluate.errors.palette import ERROR_TABLE, Category
from napari_medseg.evaluate.report import tables
from napari_medseg.evaluate.report.chart import dice_chart
from napari_medseg.evaluate.report.pictures import picture_of
from napari_medseg.evaluate.review import ErrorRegion, Order, error_regions, ranked
from napari_medseg.io.writing import refuse_existing, staged
from napari_medseg.jobs import Progress


@dataclass(frozen=True)
class Report:
    """A report in both of its forms.

    Parameters
    ----------
    html
        One page that loads nothing from anywhere.
    record
        The same for JSON: what `Comparison.to_dict` gives, the image's facts, and the regions that are shown.
    """

    html: str
    record: dict[str, Any]


def make_report(
    comparison: Comparison,
    image: MedicalImage,
    reference: Segmentation | None = None,
    *,
    worst: int = 6,
    order: Order = "size",
    progress: Progress | None = None,
) -> Report:
    """Tables, pictures of the worst regions, and where everything comes from.

    Parameters
    ----------
    comparison
        What was compared.
    image
        What the labels lie on; its name, and that of the reference, stay out of the report. The candidates' are in it.
    reference
        The reference of the comparison; without one the regions are those in which the first two candidates differ.
    worst
        How many regions of each candidate are shown.
    order
        Which regions count as worst.
    progress
        Told about every candidate; can cancel.

    Raises
    ------
    InputError
        If the labels do not lie on the image's grid.
    """
    progress = progress or Progress()
    comparison = _without_file_names(comparison)
    for candidate in comparison.candidates:
        if not candidate.segmentation.geometry.is_close(image.geometry, 1e-2):
            raise InputError(
                f"{candidate.name}: does not lie on the grid of {image.name}; open the image that it was made on."
            )
    blocks, found = [], []
    for name, labels, against, other in _pairs(comparison, reference):
        objects = labels.table.instances or against.table.instances
        regions = error_regions(
            labels.data,
            against.data,
            labels.geometry.spacing,
            unit=labels.geometry.unit or "mm",
            axes=labels.axes,
            instances=objects,
            progress=progress,
        )
        chosen = ranked(regions, order)[:worst]
        figures = []
        for region in chosen:
            progress.check()
            picture = picture_of(image, labels, against, region, objects)
            caption = tables.region_in_words(region, labels.table, against.table, picture.where)
            figures.append(
                {
                    "alt": f"Two panels, {caption}",
                    "caption": caption,
                    "width": picture.width,
                    "height": picture.height,
                    "data": base64.b64encode(picture.png).decode(),
                }
            )
        title = f"Where {name} differs from {other}"
        blocks.append({"title": title, "count": tables.counted(regions, len(chosen), order), "figures": figures})
        found.append({"candidate": name, "against": other, "regions": len(regions), "shown": _records(chosen)})
    record = {
        "image": tables.image_facts(image),
        **comparison.to_dict(),
        "regions": found,
        "software": {"napari-medseg": __version__},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return Report(_page(comparison, image, blocks, record["date"]), record)


def write_report(report: Report, folder: str | Path, *, overwrite: bool = False) -> Path:
    """Write ``report.html`` and ``report.json`` into `folder`, which is made if its parent is there.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    InputError
        If one is there and may not be replaced, or the folder cannot be written to.
    """
    target = Path(folder).expanduser()
    if not target.parent.is_dir():
        raise InputError(f"{target.parent.name}: there is no such folder to write {target.name} into.")
    page, record = target / "report.html", target / "report.json"
    for path in (page, record):
        refuse_existing(path, overwrite=overwrite)
    try:
        target.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"{target.name}: cannot be made as a folder; choose another name.") from error
    for path, text in ((record, json.dumps(report.record, indent=2, allow_nan=False) + "\n"), (page, report.html)):
        with staged(path, overwrite=overwrite) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return page


def _without_file_names(comparison: Comparison) -> Comparison:
    """The reference by its part: files are often called after people, and a report is passed on."""
    if comparison.reference is None:
        return comparison
    scores = tuple(replace(scores, reference="reference") for scores in comparison.scores)
    return replace(comparison, reference="reference", scores=scores)


def _pairs(comparison: Comparison, reference: Segmentation | None) -> list[tuple[str, Segmentation, Segmentation, str]]:
    """Name, labels, what they are compared with, and its name."""
    candidates = comparison.candidates
    if reference is not None:
        return [(c.name, c.segmentation, reference, "the reference") for c in candidates]
    if len(candidates) < 2:
        return []
    first, second = candidates[:2]
    return [(first.name, first.segmentation, second.segmentation, second.name)]


def _records(regions: Sequence[ErrorRegion]) -> list[dict[str, Any]]:
    return [region.to_dict() for region in regions]


def _page(comparison: Comparison, image: MedicalImage, blocks: list[dict[str, Any]], date: str) -> str:
    from jinja2 import Environment
    from markupsafe import Markup

    source = resources.files("napari_medseg") / "resources" / "report" / "report.html"
    template = Environment(autoescape=True, trim_blocks=True).from_string(source.read_text(encoding="utf-8"))
    names = [candidate.name for candidate in comparison.candidates]
    order, by = comparison.ranking()
    against = "compared with the reference" if comparison.reference else "compared with each other"
    chart, caption = dice_chart(comparison)
    return template.render(
        title=f"Comparison on one image, {image.modality.description}",
        subtitle=f"{', '.join(names)}, {against}.",
        notes=tables.notes(comparison, image),
        names=names,
        ranking=[names[k] for k in order] if len(names) > 1 else [],
        ranked_by=by,
        scores=tables.score_blocks(comparison),
        # drawn by matplotlib from names that it escapes
        chart=Markup(chart) if chart else None,  # noqa: S704
        chart_caption=caption,
        agreement=tables.agreement_block(comparison),
        runs=tables.run_lines(comparison),
        regions=blocks,
        legend=[{"name": ERROR_TABLE.name(c), "colour": ERROR_TABLE.colour(c)} for c in list(Category)[2:]],
        definitions=tables.definitions(comparison),
        settings=tables.settings(comparison),
        image=tables.image_facts(image).items(),
        version=__version__,
        date=date,
    )
