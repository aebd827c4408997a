"""``docs/README.md`` and ``LICENSE``: what a person must know before using the bundle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from napari_medseg.bundles.model import ModelCard
from napari_medseg.bundles.save.description import BundleDescription, FileKind
from napari_medseg.bundles.save.folder import INFERENCE, WEIGHTS
from napari_medseg.bundles.save.metadata import scores_by_set
from napari_medseg.networks import ARCHITECTURES

_LICENCES = {
    "CC0 1.0": "https://creativecommons.org/publicdomain/zero/1.0/",
    "CC BY 4.0": "https://creativecommons.org/licenses/by/4.0/",
    "CC BY-SA 4.0": "https://creativecommons.org/licenses/by-sa/4.0/",
    "CC BY-NC 4.0": "https://creativecommons.org/licenses/by-nc/4.0/",
    "CC BY-NC-SA 4.0": "https://creativecommons.org/licenses/by-nc-sa/4.0/",
    "Apache-2.0": "https://www.apache.org/licenses/LICENSE-2.0",
    "BSD-3-Clause": "https://opensource.org/license/bsd-3-clause",
}


def readme_text(definition: Mapping[str, Any], description: BundleDescription, kind: FileKind, count: int) -> str:
    """Text of ``docs/README.md``, for a network of `count` weights and a folder of files of one `kind`."""
    card = description.card
    target = str(definition.get("_target_", ""))
    extra = next((e.extra for e in ARCHITECTURES.values() if e.target == target and e.extra), None)
    lines = [f"# {_line(card.name)}", "", card.description.strip(), ""]
    lines += [f"Network: `{target}`, {f'{count:,}' if count else 'no'} weights; {_sight(description)}.", ""]
    lines += [f"Labels: {', '.join(f'{label.id} {_line(label.name)}' for label in card.labels)}; 0 is background.", ""]
    lines += [
        f"**Intended use: {_line(card.intended_use)}.** {'Weights' if count else 'Licence'}: {_line(card.licence)}.",
        "",
    ]
    lines += ["## Scores", ""]
    lines += [*_table(card), "", f"How they were measured: {_line(card.validation)}.", "", "## Limits", ""]
    lines += [f"- {_line(limit)}." for limit in description.limits] or ["None are stated, which does not mean none."]
    lines += ["", "## Trained on", "", *_trained_on(card, count), "", f"Recipe: {_line(card.recipe)}."]
    lines += ["", "## Run it", "", "In napari-medseg: choose the card in the Segment dock, or"]
    lines += [f"`napari-medseg segment IMAGE -m {card.id} -o OUT.zarr`.", ""]
    extras = ",".join(["train", extra] if extra else ["train"])
    lines += [f'With MONAI, from this folder (needs `pip install "napari-medseg[{extras}]"`;']
    lines += [f"FOLDER holds `{kind}` files):", "", "```", "python -m monai.bundle run run --config_file " + INFERENCE]
    lines[-1] += " --dataset_dir FOLDER --output_dir OUT"
    lines += ["```"]
    if card.in_channels == 0:
        lines += [
            "",
            "The number of channels is stated as 0, which means any. MONAI runs the bundle all the same, but its",
        ]
        lines += ["`verify_net_in_out` takes the 0 for a number and cannot check the network."]
    if card.references:
        lines += ["", "## References", "", *(f"- {_line(r)}" for r in card.references)]
    return "\n".join(lines) + "\n"


def _sight(description: BundleDescription) -> str:
    """What the network sees at a time."""
    before, grid = description.before, "the image's own grid"
    if before.spacing is not None:
        grid = " x ".join(f"{v:g}" for v in before.spacing) + f" {description.unit}"
    shape = " x ".join(str(t) for t in description.tiling.tile or ())
    seen = "the whole image at once," if description.whole else f"tiles of {shape}"
    return f"{seen} at {grid}" + (", with any number of channels" if description.card.in_channels == 0 else "")


def _line(text: Any) -> str:
    """One line that no table is broken by."""
    return " ".join(str(text).split()).rstrip(".").replace("|", "\\|")


def _table(card: ModelCard) -> list[str]:
    sets = scores_by_set(card)
    if not sets:
        return ["No scores were measured."]
    names = list(dict.fromkeys(name for scores in sets.values() for name in scores))
    rows = [["images kept apart", *names], ["---"] * (len(names) + 1)]
    rows += [[title or "all", *(scores.get(n, "–") for n in names)] for title, scores in sets.items()]
    return [f"| {' | '.join(_line(cell) for cell in row)} |" for row in rows]


def _trained_on(card: ModelCard, count: int) -> list[str]:
    entries = []
    for data in card.training_data:
        images = f"{data['images']} images" if "images" in data else None
        known = (data.get("name"), images, data.get("licence", "licence not stated"))
        more = (data.get("attribution"), data.get("note"))
        head = ", ".join(_line(v) for v in known if v)
        entries.append("- " + ". ".join([head, *(_line(v) for v in more if v)]) + ".")
    return entries or ["- Not stated." if count else "- Nothing: there is nothing to learn."]


def licence_text(description: BundleDescription, count: int) -> str:
    """Text of ``LICENSE``, for a network of `count` weights."""
    card = description.card
    address = _LICENCES.get(card.licence)
    under = f"licensed under {card.licence}{f', {address}' * bool(address)}"
    if count:
        lines = [f"The weights in this bundle ({WEIGHTS}) are {under}", ""]
        lines += ["They were trained on", *_trained_on(card, count)]
    else:
        lines = [f"This bundle is {under}", "", "It holds no weights: nothing was learned."]
    lines += ["", "The configuration files are licensed like the software that wrote them (BSD-3-Clause)."]
    lines += [f"No warranty. Intended use: {_line(card.intended_use)}."]
    if description.licence_text is not None:
        lines += ["", description.licence_text.strip()]
    return "\n".join(lines) + "\n"
