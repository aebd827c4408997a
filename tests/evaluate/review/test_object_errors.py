import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_medseg.evaluate.review import Error, RegionRules, ReviewQueue, error_regions, update_review


def draw(*objects, shape=(20, 40)):
    labels = np.zeros(shape, np.uint16)
    for number, box in objects:
        labels[box] = number
    return labels


def test_each_error_by_hand():
    reference = draw(
        (1, np.s_[1:5, 1:5]),  # found
        (2, np.s_[1:5, 10:14]),  # missed
        (3, np.s_[1:5, 20:28]),  # in two pieces
        (4, np.s_[10:14, 1:5]),  # with 5 in one
        (5, np.s_[10:14, 5:9]),
    )
    candidate = draw(
        (11, np.s_[1:5, 1:6]),
        (12, np.s_[1:5, 20:24]),
        (13, np.s_[1:5, 24:28]),
        (14, np.s_[10:14, 1:9]),
        (15, np.s_[15:17, 30:33]),  # nothing there
    )

    found = error_regions(candidate, reference, (0.5, 0.5), unit="um", instances=True)

    assert {(r.error, r.reference_label, r.candidate_label) for r in found} == {
        (Error.MISSED, 2, 0),
        (Error.SPLIT, 3, 0),
        (Error.MERGED, 0, 14),
        (Error.SPURIOUS, 0, 15),
    }
    missed = next(r for r in found if r.error is Error.MISSED)
    assert (missed.voxels, missed.size, missed.size_unit) == (16, 4.0, "um2")
    assert missed.box == ((1, 5), (10, 14))
    assert reference[missed.centre] == 2
    assert missed.distance is None
    blocks = error_regions(candidate, reference, (0.5, 0.5), unit="um", instances=True, block=(3, 7))
    assert blocks == found


def test_an_object_of_half_the_overlap_is_another():
    reference = draw((1, np.s_[0, 0:4]), shape=(1, 8))
    half = draw((9, np.s_[0, 2:4]), (8, np.s_[0, 6:7]), shape=(1, 8))

    found = error_regions(half, reference, None, instances=True)

    # 2 of 4 voxels: the intersection is not above half of the union
    assert [(r.error, r.label) for r in found] == [("missed object", 1), ("spurious object", 9), ("spurious object", 8)]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), data=st.data())
def test_updating_equals_starting_anew(seed, data):
    rng = np.random.default_rng(seed)
    shape = (16, 20)
    coarse = rng.integers(0, 9, (2, 4, 5))
    candidate, reference = (np.kron(c, np.ones((4, 4), int)) for c in coarse)
    rules = RegionRules.of(2, (1.0, 1.0), instances=True)
    queue = ReviewQueue.start(candidate, reference, rules)

    for _ in range(3):
        start = [data.draw(st.integers(0, n - 1)) for n in shape]
        box = tuple(slice(a, data.draw(st.integers(a + 1, n))) for a, n in zip(start, shape, strict=True))
        candidate[box] = data.draw(st.sampled_from([0, 1, 5, 77]))
        queue = update_review(queue, candidate, reference, box)

        anew = error_regions(candidate, reference, (1.0, 1.0), instances=True)
        now = {(r.kind, r.voxels, r.box, r.centre) for r in (i.region for i in queue.present)}
        assert now == {(r.kind, r.voxels, r.box, r.centre) for r in anew}
        assert len(queue.present) == len(anew)


def test_a_missed_object_that_is_drawn_is_fixed():
    reference = draw((1, np.s_[1:5, 1:5]), (2, np.s_[8:12, 8:12]))
    candidate = np.zeros_like(reference)
    queue = ReviewQueue.start(candidate, reference, RegionRules.of(2, None, instances=True))

    candidate[1:5, 1:5] = 3
    queue = update_review(queue, candidate, reference, np.s_[1:5, 1:5])

    assert [(i.region.label, i.state, i.gone) for i in queue.items] == [(1, "fixed", True), (2, "open", False)]
