"""The systems that the benchmarks of the engine compare, each on the same image, weights, tiles and batches.

``bare`` (torch, float32) and ``bare-auto`` (the backend that the engine chooses) are forward passes only, of tiles in
memory. ``monai`` is MONAI's sliding window and an
argmax, ``nnunet`` is nnU-Net's and an argmax; both get the whole normalised image in memory before the clock starts.
``ours`` (torch, float32) and ``ours-auto`` (what the engine chooses) start from the file and end with a verified
OME-Zarr store, pyramid included.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from importlib import import_module
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from fairness import Outcome, measured
from monai.data.utils import dense_patch_slices
from monai.inferers import sliding_window_inference
from networks import GivenModel, NetworkName, make_model

from napari_medseg.case import Geometry, MedicalImage, Modality, Source
from napari_medseg.inference import SegmentOptions, segment
from napari_medseg.inference.compute.devices import choose_device
from napari_medseg.io import open_images

_LEAD_VALUES = 1 << 26
_SLIDE_SPACING = (0.5, 0.5)


@dataclass(frozen=True)
class Trial:
    """One image file and one way of cutting it into tiles.

    Parameters
    ----------
    path
        A TIFF of a slide or a NIfTI volume.
    network, classes
        See `networks.make_model`.
    tile, overlap, batch_size
        How the image is cut, for every system.
    tissue
        Whether ours may leave out tiles of bare glass: ``"on"`` or ``"off"``.
    max_memory
        Bytes that ours may take; ``None`` for its default.
    """

    path: Path
    network: NetworkName
    classes: int
    tile: tuple[int, ...]
    overlap: float
    batch_size: int
    tissue: str = "off"
    max_memory: int | None = None

    def open(self) -> MedicalImage:
        """The image; slides get a spacing, because tissue is told from glass by areas."""
        image = open_images(self.path)[0]
        if len(self.tile) == 3:
            return replace(image, modality=Modality.CT)
        geometry = Geometry.from_spacing(image.geometry.shape, _SLIDE_SPACING, "um")
        return replace(image, modality=Modality.SM, intensity="stain RGB", geometry=geometry)

    def model(self) -> GivenModel:
        """The network as a model."""
        dims = len(self.tile)
        return make_model(self.network, dims=dims, classes=self.classes, tile=self.tile, overlap=self.overlap)


class Counted(torch.nn.Module):
    """A network that counts the tiles it is given."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network, self.tiles = network, 0

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        """What the network makes of `tiles`."""
        self.tiles += len(tiles)
        maps: torch.Tensor = self.network(tiles)
        return maps


def bare(trial: Trial) -> Outcome:
    """Forward passes of all tiles in torch, float32; cutting tiles is not counted."""
    network = trial.model().network()
    with torch.inference_mode():
        return _forward_only(trial, network, "torch fp32")


def bare_auto(trial: Trial) -> Outcome:
    """Forward passes of all tiles with the backend that the engine chooses; choosing is not counted."""
    from napari_medseg.inference.compute.backends import choose_runner

    model, pixels = trial.model(), _pixels(trial)
    device = choose_device("cpu", "auto")
    choice = choose_runner(model, model.network(), device, "auto", next(_batches(trial, pixels)))
    with torch.inference_mode():
        return _forward_only(trial, choice.runner, f"{choice.backend} {choice.precision}")


def _forward_only(trial: Trial, forward: Callable[[torch.Tensor], Any], note: str) -> Outcome:
    pixels = _pixels(trial)
    forward(next(_batches(trial, pixels)))
    seconds, tiles = 0.0, 0
    with measured() as measure:
        for batch in _batches(trial, pixels):
            started = time.perf_counter()
            forward(batch)
            seconds += time.perf_counter() - started
            tiles += len(batch)
    return Outcome(seconds, tiles, peak=measure.peak, held=measure.held, note=note)


def monai(trial: Trial) -> Outcome:
    """MONAI's sliding window and an argmax."""
    return _whole_image(trial, monai_maps, trial.batch_size)


def monai_maps(trial: Trial, network: torch.nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """Maps ``(c, ...)`` of the whole image ``(1, c, ...)`` by MONAI's sliding window."""
    maps: torch.Tensor = sliding_window_inference(
        pixels, trial.tile, trial.batch_size, network, overlap=trial.overlap, mode="gaussian", sigma_scale=0.125
    )[0]
    return maps


def nnunet(trial: Trial) -> Outcome:
    """nnU-Net's sliding window and an argmax; it takes one tile at a time and sums in half precision."""
    # loaded before the clock starts
    import_module("nnunetv2.inference.predict_from_raw_data")
    return _whole_image(trial, nnunet_maps, 1)


def nnunet_maps(trial: Trial, network: torch.nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """Maps ``(c, ...)`` of the whole image ``(1, c, ...)`` by nnU-Net's sliding window, on the processor."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    given = {"patch_size": list(trial.tile), "architecture": {}}
    plans = PlansManager({"plans_name": "benchmark", "configurations": {"given": given}})
    labels = {"background": 0} | {f"class {k}": k for k in range(1, trial.classes)}
    with redirect_stdout(sys.stderr):
        predictor = nnUNetPredictor(
            tile_step_size=1 - trial.overlap,
            use_gaussian=True,
            use_mirroring=False,
            perform_everything_on_device=False,
            device=torch.device("cpu"),
            allow_tqdm=False,
        )
        predictor.manual_initialization(
            network, plans, plans.get_configuration("given"), None, {"labels": labels}, "none", None
        )
        maps: torch.Tensor = predictor.predict_sliding_window_return_logits(pixels[0])
    return maps


def _whole_image(trial: Trial, maps_of: Callable[..., torch.Tensor], batch_size: int) -> Outcome:
    pixels = _pixels(trial)
    network = Counted(trial.model().network())
    threshold = trial.model().threshold
    with torch.inference_mode():
        network(next(_batches(trial, pixels))[:batch_size])
        network.tiles = 0
        with measured() as measure:
            maps = maps_of(trial, network, pixels)
            labels = _decide(maps, threshold)
        lead = _lead(maps, threshold)
    return Outcome(measure.seconds, network.tiles, 0, measure.peak, measure.held, labels, lead, "torch fp32")


def _decide(maps: torch.Tensor, threshold: float | None) -> npt.NDArray[np.uint8]:
    labels = maps.argmax(0) if threshold is None else maps[0] >= log(threshold / (1 - threshold))
    decided: npt.NDArray[np.uint8] = labels.to(torch.uint8).numpy()
    return decided


def _lead(maps: torch.Tensor, threshold: float | None) -> npt.NDArray[np.float16]:
    """By how much the best class leads the second, in standard deviations of the maps."""
    spread = float(maps[:, :: max(1, maps.shape[1] // 16)].float().std())
    lead = np.empty(maps.shape[1:], np.float16)
    rows = max(1, _LEAD_VALUES // max(1, maps[:, 0].numel()))
    for first in range(0, maps.shape[1], rows):
        part = maps[:, first : first + rows].float()
        if threshold is None:
            best, second = part.topk(2, 0).values
            distance = best - second
        else:
            distance = (part[0] - log(threshold / (1 - threshold))).abs()
        lead[first : first + rows] = (distance / spread).numpy()
    return lead


def ours(trial: Trial) -> Outcome:
    """The engine with torch in float32."""
    return run_engine(trial.open(), trial.model(), **_wanted(trial), precision="fp32", backend="torch")


def ours_auto(trial: Trial) -> Outcome:
    """The engine with the backend and precision that it chooses; it keeps to torch for less than a dozen batches."""
    return run_engine(trial.open(), trial.model(), **_wanted(trial), precision="auto", backend="auto")


def _wanted(trial: Trial) -> dict[str, Any]:
    return {
        "overlap": trial.overlap,
        "batch_size": trial.batch_size,
        "tissue": trial.tissue,
        "max_memory": trial.max_memory,
    }


def run_engine(image: MedicalImage, model: GivenModel, *, keep_labels: bool = True, **wanted: Any) -> Outcome:
    """Segment on the processor into a store that is thrown away; `wanted` are fields of `SegmentOptions`.

    Before the clock starts a corner of the image is segmented with torch, which loads libraries. Measuring backends
    and exporting the network happen while the clock runs, in the first run that finds nothing in the cache.
    """
    options = SegmentOptions(device="cpu", **wanted)
    folder = Path(tempfile.mkdtemp())
    try:
        corner = _corner(image, model, options.batch_size or 1)
        segment(corner, model, folder / "corner.zarr", replace(options, backend="torch", max_memory=None))
        with measured() as measure:
            result = segment(image, model, folder / "labels.zarr", options)
        labels = np.asarray(result.segmentation.data[...]) if keep_labels else None
    finally:
        shutil.rmtree(folder)
    report = result.report
    return Outcome(
        measure.seconds,
        report.tiles["done"],
        report.tiles["skipped"],
        measure.peak,
        measure.held,
        labels,
        note=f"{report.backend} {report.precision}",
    )


def _corner(image: MedicalImage, model: GivenModel, batch_size: int) -> MedicalImage:
    """As many tiles side by side as a batch has, in memory."""
    sizes = (*model.tile[:-1], model.tile[-1] * batch_size)
    part = tuple(slice(0, min(n, size)) for n, size in zip(image.geometry.shape, sizes, strict=True))
    pixels = np.asarray(image.levels[0][part])
    return replace(image, levels=(pixels,), geometry=image.geometry.crop(part), source=Source("memory"))


def _pixels(trial: Trial) -> torch.Tensor:
    """The whole image, normalised, float32 ``(1, c, ...)``."""
    image, model = trial.open(), trial.model()
    if any(n < t for n, t in zip(image.geometry.shape, trial.tile, strict=True)):
        raise SystemExit(f"An image of {image.geometry.shape} is smaller than a tile of {trial.tile}.")
    values = image.read([slice(0, n) for n in image.geometry.shape])
    return torch.from_numpy(np.ascontiguousarray(model.intensity.apply(values)))[None]


def _batches(trial: Trial, pixels: torch.Tensor) -> Iterator[torch.Tensor]:
    """The tiles that MONAI lays, in batches."""
    stride = [max(1, int(t * (1 - trial.overlap))) for t in trial.tile]
    parts = dense_patch_slices(pixels.shape[2:], trial.tile, stride)
    for first in range(0, len(parts), trial.batch_size):
        yield torch.cat([pixels[(slice(None), slice(None), *p)] for p in parts[first : first + trial.batch_size]])


# the engine comes before bare-auto, which would choose its backend for it
CONTENDERS: dict[str, Callable[[Trial], Outcome]] = {
    "bare": bare,
    "monai": monai,
    "nnunet": nnunet,
    "ours": ours,
    "ours-auto": ours_auto,
    "bare-auto": bare_auto,
}
