"""What there is to say about an image, in words."""

from __future__ import annotations

from dataclasses import dataclass

from napari_medseg.case import MedicalImage

_WAYS = {
    "R": "right",
    "L": "left",
    "A": "anterior",
    "P": "posterior",
    "S": "superior",
    "I": "inferior",
}


@dataclass(frozen=True)
class Fact:
    """One line: what it is, its value, and what that means."""

    name: str
    value: str
    meaning: str


def facts_of(image: MedicalImage) -> list[Fact]:
    """The lines of the Case dock, in the order in which a reader asks."""
    modality = f"{image.modality} ({image.modality.description})"
    facts = [
        Fact("Modality", modality, "What made the image, as its DICOM code"),
        Fact("Size", _size(image), "Number of voxels along the axes of the file, and of frames and channels"),
        Fact("Spacing", _spacing(image), "Distance between the centres of neighbouring voxels, z × y × x"),
        Fact("Intensities", f"{_intensity(image)}, {image.dtype}", "What the numbers mean, and their type"),
        Fact("Orientation", _orientation(image), "Where the array axes of the file point in the patient"),
        Fact("Pyramid", _levels(image), "Copies at lower resolution inside the file"),
        Fact("Format", image.source.format, "How the file is stored"),
        Fact(
            "Identifiers",
            "present in the file; not kept" if image.identifiers_present else "none found",
            "Whether the file names the patient. The names are never read into the viewer or written to results",
        ),
    ]
    if image.seconds_per_frame:
        facts.insert(3, Fact("Frame rate", f"{1 / image.seconds_per_frame:.3g} per second", "Frames along time"))
    if image.objective_power:
        facts.insert(3, Fact("Objective", f"{image.objective_power:g} ×", "Magnification of the slide scanner"))
    return facts


def _size(image: MedicalImage) -> str:
    size = " × ".join(f"{n}" for n in image.geometry.shape)
    extra = []
    if image.frame_count > 1:
        extra.append(f"{image.frame_count} frames")
    if image.channel_count > 1:
        extra.append(f"{image.channel_count} channels")
    return ", ".join([f"{size} ({' '.join(image.geometry.axes)})", *extra])


def _spacing(image: MedicalImage) -> str:
    spacing = image.geometry.spacing
    if spacing is None:
        return "unknown"
    unit = "µm" if image.geometry.unit == "um" else "mm"
    return " × ".join(f"{s:.4g}" for s in spacing) + f" {unit}"


def _intensity(image: MedicalImage) -> str:
    return {"HU": "Hounsfield units", "RGB": "colour", "stain RGB": "colour of stains", "arbitrary": "arbitrary"}[
        image.intensity
    ]


def _orientation(image: MedicalImage) -> str:
    if image.geometry.frame == "image":
        return "as in the picture"
    words = [
        f"{axis} to {_WAYS[code]}" for axis, code in zip(image.geometry.axes, image.geometry.orientation, strict=True)
    ]
    return ", ".join(words)


def _levels(image: MedicalImage) -> str:
    n = len(image.levels)
    if n == 1:
        return "one level"
    return f"{n} levels, down to 1/{max(image.downsampling(n - 1)):.0f}"
