from itertools import combinations

import numpy as np
import pytest
from skimage.color import deltaE_ciede2000, rgb2lab

from napari_medseg.case import InputError
from napari_medseg.evaluate.errors import ERROR_TABLE, Category, difference_table, legend
from napari_medseg.evaluate.pairs import count_pairs

# Machado, Oliveira and Fernandes, 2009, severity 1
VISION = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    "all cones": np.eye(3),
}


def lab(colour, matrix):
    value = np.asarray(colour) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.asarray(matrix) @ linear, 0, 1)
    return rgb2lab(np.where(seen <= 0.0031308, seen * 12.92, 1.055 * seen ** (1 / 2.4) - 0.055))


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("table", [ERROR_TABLE, difference_table()], ids=["errors", "difference"])
def test_all_categories_look_different_to_every_eye(table, vision):
    colours = [table.colour(c) for c in Category if c]
    least = min(
        float(deltaE_ciede2000(lab(a, VISION[vision]), lab(b, VISION[vision]))) for a, b in combinations(colours, 2)
    )
    # a just noticeable difference is about 2
    assert least > 10


def test_house_colours():
    red, green, blue = ERROR_TABLE.colour(Category.FALSE_POSITIVE)
    assert red > green > blue == 0
    red, green, blue = ERROR_TABLE.colour(Category.FALSE_NEGATIVE)
    assert blue > green > red
    assert np.ptp(ERROR_TABLE.colour(Category.AGREEMENT)) < 32


CANDIDATE = np.array([[0, 1, 1, 0, 2, 2, 1, 1]])
REFERENCE = np.array([[0, 1, 0, 1, 1, 2, 1, 0]])


def test_shares_by_hand():
    pairs = count_pairs(CANDIDATE, REFERENCE)

    def lines(entries):
        return {e.name: (e.voxels, e.share) for e in entries}

    assert lines(legend(pairs)) == {
        "agreement": (3, 3 / 7),
        "false positive": (2, 2 / 7),
        "false negative": (1, 1 / 7),
        "wrong class": (1, 1 / 7),
    }
    of_one = {"agreement": (2, 1 / 3), "false positive": (2, 1 / 3), "false negative": (2, 1 / 3)}
    assert lines(legend(pairs, label=1)) == of_one
    assert lines(legend(pairs.confusion(1))) == of_one
    assert lines(legend(pairs, instances=True))["agreement"] == (4, 4 / 7)
    names = [e.name for e in legend(pairs, table=difference_table("U-Net", "SegFormer"))]
    assert names == ["both, same label", "only U-Net", "only SegFormer", "both, other label"]
    with pytest.raises(InputError, match="one class already"):
        legend(pairs.confusion(1), label=2)


def test_no_foreground_has_no_shares():
    empty = np.zeros((2, 2), int)
    assert all(np.isnan(e.share) and e.voxels == 0 for e in legend(count_pairs(empty, empty)))


def test_the_legend_counts_what_the_map_shows():
    from napari_medseg.evaluate.errors import ErrorCategories

    rng = np.random.default_rng(3)
    candidate, reference = rng.integers(0, 4, (2, 30, 30))
    pairs = count_pairs(candidate, reference)
    for label in (None, 2):
        shown = ErrorCategories(candidate, reference, label=label)[...]
        for entry in legend(pairs, label=label):
            assert entry.voxels == (shown == entry.category).sum()
