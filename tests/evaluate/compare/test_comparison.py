"""Which candidate is better at what, against numbers worked out by hand."""

import json
import math

import numpy as np
import pytest

from napari_medseg.case import Geometry, InputError, LabelTable, Provenance, Segmentation, Step
from napari_medseg.evaluate.compare import Candidate, RunFacts, compare
from napari_medseg.evaluate.grids import GridMismatch

NAMES = LabelTable.from_names(["liver", "tumour"])


def labels(values, name="labels", table=NAMES, spacing=(1.0, 1.0), provenance=None):
    data = np.asarray(values, np.uint8)
    geometry = Geometry.from_spacing(data.shape, spacing, "mm")
    return Segmentation(data, geometry, table, provenance or Provenance(), name)


REFERENCE = labels([[1, 1, 1, 1, 0, 2, 2, 0]], "right")
# liver: 4 of 4; tumour: 1 of 2 and nothing more
GOOD = labels([[1, 1, 1, 1, 0, 2, 0, 0]])
# liver: 2 of 4; tumour: both, and one more
POOR = labels([[1, 1, 0, 0, 0, 2, 2, 2]])


def row_of(comparison, name):
    return next(rows for title, rows in comparison.rows() if title == name)


def metric_of(comparison, key):
    return next(m for m in comparison.metrics if m.key == key)


def test_the_better_of_each_row_is_marked_and_the_mean_ranks():
    found = compare([Candidate("poor", POOR), Candidate("good", GOOD)], REFERENCE)
    dice, liver, tumour = metric_of(found, "dice"), row_of(found, "liver"), row_of(found, "tumour")
    assert [r.values["dice"] for r in liver] == pytest.approx([2 / 3, 1])
    assert [r.values["dice"] for r in tumour] == pytest.approx([0.8, 2 / 3])
    assert found.best(liver, dice) == {1}
    assert found.best(tumour, dice) == {0}
    order, by = found.ranking()
    assert order == (1, 0)
    assert by.startswith("Dice")


def test_values_that_are_alike_or_alone_are_not_marked():
    twins = compare([Candidate("a", GOOD), Candidate("b", GOOD)], REFERENCE)
    alone = compare([Candidate("a", GOOD)], REFERENCE)
    for found in (twins, alone):
        assert all(found.best(rows, m) == frozenset() for _, rows in found.rows() for m in found.metrics)
    assert alone.agreement is None


def test_what_is_not_defined_or_infinite_never_wins():
    nothing = labels([[0] * 8])
    found = compare([Candidate("nothing", nothing), Candidate("good", GOOD)], REFERENCE)
    liver = row_of(found, "liver")
    assert math.isinf(liver[0].values["hd"])
    assert found.best(liver, metric_of(found, "hd")) == {1}
    # no voxel was said to be liver, so there is no precision to be better at
    assert math.isnan(liver[0].values["precision"])
    assert found.best(liver, metric_of(found, "precision")) == frozenset()
    assert found.ranking()[0] == (1, 0)


def test_a_signed_difference_is_best_nearest_to_zero():
    more, less = labels([[1, 1, 1, 1, 1, 2, 2, 0]]), labels([[1, 0, 0, 0, 0, 2, 2, 0]])
    found = compare([Candidate("less", less), Candidate("more", more)], REFERENCE)
    signed = [m for m in found.metrics if m.better == "zero"]
    assert signed
    for metric in signed:
        assert found.best(row_of(found, "liver"), metric) == {1}


def test_agreement_of_two_without_a_reference():
    found = compare([Candidate("a", GOOD), Candidate("b", POOR)], None)
    # liver 2*2/(4+2), tumour 2*1/(1+3)
    np.testing.assert_allclose(found.agreement.mean, [[1, 7 / 12], [7 / 12, 1]])
    assert found.scores == () and found.ranking()[0] == ()


def test_objects_agree_by_their_foreground_whatever_their_ids():
    cells = LabelTable.from_names(["cell"], instances=True)
    one, other = labels([[1, 1, 0, 2, 2]], table=cells), labels([[7, 0, 0, 3, 4]], table=cells)
    found = compare([Candidate("one", one), Candidate("other", other)], labels([[5, 5, 0, 6, 6]], table=cells))
    np.testing.assert_allclose(found.agreement.mean[0, 1], 2 * 3 / 7)
    assert found.ranking()[0] == (0, 1)
    assert next(r.values["pq"] for r in row_of(found, found.scores[0].labels[0].name)) == 1


def test_the_history_says_how_labels_were_made():
    run = Step.now(
        "segment",
        model={"id": "m", "version": "1.0.0", "weights_sha256": "ab", "licence": "CC0"},
        device="cpu",
        backend="torch",
        precision="fp32",
        seconds=1.5,
        peak_memory=2**30,
    )
    history = Provenance().with_step(run).with_step(Step.now("edit")).with_step(Step.now("export"))
    facts = Candidate("m", labels([[1]], provenance=history)).run
    assert facts == RunFacts("m", "1.0.0", "ab", "CC0", "cpu", "torch", "fp32", 1.5, 2**30, None, ("edit",))
    assert "peak_device_memory" not in facts.to_dict()


def test_the_record_is_json():
    found = compare([Candidate("a", GOOD), Candidate("none", labels([[0] * 8]))], REFERENCE)
    record = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert record["ranking"] == ["a", "none"]
    assert record["reference"] == "right"
    assert record["candidates"][1]["scores"]["labels"][0]["metrics"]["hd_mm"] is None


def test_what_cannot_be_compared_is_said():
    with pytest.raises(InputError, match="give a reference, or two candidates"):
        compare([Candidate("a", GOOD)], None)
    with pytest.raises(InputError, match="Two candidates are called a"):
        compare([Candidate("a", GOOD), Candidate("a", POOR)], REFERENCE)
    with pytest.raises(GridMismatch):
        compare([Candidate("a", labels(GOOD.data, spacing=(1.0, 2.0)))], REFERENCE)
