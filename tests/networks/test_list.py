"""The list of networks in the documentation is the list there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from napari_medseg.networks import ARCHITECTURES

_ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (Path(__file__).parents[2] / "docs" / "networks.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| `")
]


def test_every_network_is_listed_with_its_title_and_extra() -> None:
    listed = {row[0].strip("`"): row for row in _ROWS}
    assert list(listed) == list(ARCHITECTURES)
    for name, entry in ARCHITECTURES.items():
        assert listed[name][1] == entry.title
        assert listed[name][2] == entry.source
        assert re.findall(r"\d", listed[name][3])[0::1] == [str(d) for d in entry.dims]
        assert listed[name][6].strip("`[]") == (entry.extra or "")


@pytest.mark.slow
@pytest.mark.parametrize("row", _ROWS, ids=lambda row: row[0])
def test_the_counts_are_those_of_the_networks(row: list[str]) -> None:
    entry = ARCHITECTURES[row[0].strip("`")]
    for dims, stated in zip(entry.dims, row[5].split("/"), strict=True):
        values = {"spatial_dims": dims} if "spatial_dims" in entry.schema().model_fields else {}
        network = entry.build(**values)
        assert sum(p.numel() for p in network.parameters()) == int(stated.replace(",", ""))
