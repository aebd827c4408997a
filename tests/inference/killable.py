"""A run that ends its own process, without any farewell, at a given tile. Started by test_resume.py."""

import os
import signal
import sys
from pathlib import Path

import numpy as np
import torch

from napari_medseg.case import Geometry, MedicalImage
from napari_medseg.inference import SegmentOptions, segment
from napari_medseg.inference.labels import objects
from napari_medseg.inference.tiles import layout, memory
from tests.inference.fakes import Pieces, make_model

SHAPE = (150, 130)
# bands of 32 rows and columns of 64, so that there are many units
SMALL = ((memory, "_CHUNK_2D", (32, 32)), (objects, "BLOCK", 32), (layout, "_WIDEST", 64))


def scene() -> MedicalImage:
    data = np.zeros(SHAPE, np.float32)
    random = np.random.default_rng(4)
    for _ in range(120):
        y, x = random.integers(0, 146), random.integers(0, 126)
        data[y : y + random.integers(1, 5), x : x + random.integers(1, 5)] = 1
    data += random.normal(scale=0.1, size=SHAPE).astype(np.float32)
    return MedicalImage((data,), "yx", Geometry.from_spacing(SHAPE, (0.5, 0.5), "um"))


class Convolution(torch.nn.Module):
    def __init__(self, out: int, dies_at: int | None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Conv2d(1, out, 5, padding=2)
        self.dies_at, self.tiles = dies_at, 0

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        self.tiles += len(tiles)
        if self.dies_at is not None and self.tiles >= self.dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        maps = self.layer(tiles)
        return maps if maps.shape[1] > 1 else tiles


def run(out: Path, kind: str, dies_at: int | None = None, *, resume: bool = True, **options):
    """Segment the scene with small units, so that there are many."""
    for module, name, value in SMALL:
        setattr(module, name, value)
    extra = {"instances": Pieces(), "activation": "none", "out_channels": 1} if kind == "objects" else {}
    network = Convolution(extra.get("out_channels", 2), dies_at)
    model = make_model(network, tile=(16, 16), overlap=0.5, **extra)
    asked = SegmentOptions(backend="torch", batch_size=3, **options)
    return segment(scene(), model, out, asked, resume=resume)


if __name__ == "__main__":
    where, what, tile = sys.argv[1:4]
    run(Path(where), what, int(tile) if tile != "never" else None)
