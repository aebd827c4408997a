import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_medseg.case import InputError
from napari_medseg.evaluate.review import RegionRules, ReviewQueue, State, error_regions, update_review
from napari_medseg.evaluate.review.fingerprint import Contents
from tests.evaluate.errors.test_error_maps import Counting


def started(candidate, reference, spacing=(1.0, 1.0), **keywords):
    return ReviewQueue.start(candidate, reference, RegionRules.of(candidate.ndim, spacing, **keywords))


@pytest.fixture
def row():
    """Three false positives of 3, 2 and 1 voxels in a row of 12."""
    candidate = np.array([[1, 0, 0, 1, 1, 1, 0, 0, 1, 1, 0, 0]])
    return candidate, np.zeros_like(candidate)


def test_next_and_previous_open_go_round(row):
    queue = started(*row)
    assert [i.id for i in queue.ranked()] == [2, 3, 1]
    assert [queue.next_open(n).id for n in (None, 2, 3, 1)] == [2, 2 + 1, 1, 2]
    assert [queue.next_open(n, step=-1).id for n in (None, 2, 3, 1)] == [1, 1, 2, 3]

    queue = queue.decided(3, "accepted", "as the atlas has it")
    assert [queue.next_open(n).id for n in (None, 2, 3, 1)] == [2, 1, 1, 2]
    assert queue.item(3).note == "as the atlas has it"
    assert queue.counts() == {State.OPEN: 2, State.ACCEPTED: 1, State.FIXED: 0, State.IGNORED: 0}
    for number in (1, 2):
        queue = queue.decided(number, State.IGNORED)
    assert queue.next_open(2) is None
    assert queue.decided(3, "open").item(3).note == "as the atlas has it"


def test_refusals(row):
    queue = started(*row)
    with pytest.raises(InputError, match="no region 9"):
        queue.decided(9, "open")
    with pytest.raises(InputError, match="open, accepted, fixed, ignored"):
        queue.decided(1, "done")
    with pytest.raises(InputError, match="made for"):
        update_review(queue, np.zeros((2, 2), int), np.zeros((2, 2), int), (slice(0, 1), slice(0, 1)))
    with pytest.raises(InputError, match="without a step"):
        update_review(queue, *row, (slice(0, 1), slice(0, 8, 2)))


def edit(queue, row, start, stop, value):
    candidate, reference = row
    candidate[0, start:stop] = value
    return update_review(queue, candidate, reference, (slice(0, 1), slice(start, stop)))


def test_a_region_that_shrinks_keeps_its_number_and_state(row):
    queue = edit(started(*row).decided(2, "accepted", "yes"), row, 3, 4, 0)
    item = queue.item(2)
    assert (item.region.voxels, item.state, item.note) == (2, State.ACCEPTED, "yes")


def test_a_region_that_vanishes_is_fixed_and_undo_brings_it_back(row):
    before = started(*row).decided(3, "ignored")
    queue = edit(before, row, 8, 10, 0)
    gone = queue.item(3)
    assert (gone.gone, gone.state, gone.before, gone.into) == (True, State.FIXED, State.IGNORED, None)
    assert queue.counts()[State.FIXED] == 1
    assert [i.id for i in queue.present] == [1, 2]
    assert queue.next_open(2).id == 1

    again = edit(queue, row, 8, 10, 1)
    assert [(i.id, i.state) for i in again.items] == [(i.id, i.state) for i in before.items]


def test_the_larger_piece_keeps_the_number_and_both_the_state(row):
    candidate, reference = np.ones((1, 12), int), np.zeros((1, 12), int)
    queue = edit(started(candidate, reference).decided(1, "accepted"), (candidate, reference), 4, 5, 0)
    assert {(i.id, i.region.voxels, i.state) for i in queue.items} == {
        (1, 7, State.ACCEPTED),
        (2, 4, State.ACCEPTED),
    }


def test_regions_that_become_one_are_open_if_one_was(row):
    queue = started(*row).decided(2, "accepted")
    joined = edit(queue, row, 6, 8, 1)
    assert (joined.item(2).region.voxels, joined.item(2).state) == (7, State.OPEN)
    assert (joined.item(3).gone, joined.item(3).into) == (True, 2)
    assert sum(joined.counts().values()) == 2
    both = edit(queue.decided(3, "ignored"), row, 6, 8, 1)
    assert both.item(2).state == State.ACCEPTED


def test_another_error_at_the_same_place_is_a_new_region():
    candidate, reference = np.zeros((1, 5), int), np.array([[0, 1, 1, 1, 0]])
    queue = started(candidate, reference).decided(1, "ignored")
    queue = edit(queue, (candidate, reference), 1, 4, 2)
    assert queue.item(1).state == State.FIXED
    assert (queue.item(2).region.error, queue.item(2).state) == ("wrong class", State.OPEN)


def measures(regions):
    return [(r.kind, r.voxels, r.size, r.box, r.centre, r.distance, r.uncertainty) for r in regions]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), data=st.data())
def test_updating_equals_starting_anew(seed, data):
    rng = np.random.default_rng(seed)
    shape, axes = data.draw(st.sampled_from([((14, 18), "yx"), ((6, 9, 10), "zyx"), ((3, 9, 10), "tyx")]))
    spacing = (2.0, 1.0, 0.5)[-len(axes.removeprefix("t")) :]
    share = data.draw(st.sampled_from([0.05, 0.3, 0.6]))
    reference = rng.integers(0, 3, shape)
    candidate = np.where(rng.random(shape) < share, rng.integers(0, 3, shape), reference)
    uncertainty = rng.random(shape).astype(np.float32)
    keywords = {"axes": axes, "min_voxels": data.draw(st.sampled_from([1, 1, 3]))}
    rules = RegionRules.of(len(shape), spacing, **keywords)
    queue = ReviewQueue.start(candidate, reference, rules, uncertainty=uncertainty)

    for _ in range(3):
        box = []
        for n in shape:
            start = data.draw(st.integers(0, n - 1))
            box.append(slice(start, data.draw(st.integers(start + 1, n))))
        box = tuple(box)
        candidate[box] = np.where(rng.random(candidate[box].shape) < 0.7, data.draw(st.integers(0, 2)), reference[box])
        queue = update_review(queue, candidate, reference, box, uncertainty=uncertainty)

        anew = error_regions(candidate, reference, spacing, uncertainty=uncertainty, **keywords)
        now = sorted((i.region for i in queue.present), key=lambda r: int(r.runs.start[0]))
        assert measures(now) == measures(anew)
        assert [r.runs.start.tolist() for r in now] == [r.runs.start.tolist() for r in anew]
        assert len({i.id for i in queue.items}) == len(queue.items)
        assert queue.candidate == Contents.of(candidate)


def test_an_update_reads_around_the_box_only():
    candidate, reference = np.zeros((2, 400, 400), np.uint8)
    candidate[5:8, 5:8] = candidate[300:310, 300:310] = 1
    reads = Counting(candidate, (400, 400))
    queue = started(candidate, reference)

    candidate[5, 5] = 0
    queue = update_review(queue, reads, reference, (slice(5, 6), slice(5, 6)))

    assert queue.item(1).region.voxels == 8
    window = [r for r in reads.regions if r != (slice(0, 400), slice(0, 400))]
    # the second read is that of the checksum, whose cell is the whole of so small an image
    assert len(reads.regions) - len(window) == 1
    assert all(r[0].stop < 20 and r[1].stop < 20 for r in window)


def test_regions_too_small_to_be_listed_are_found_whole_once_an_edit_makes_them_large():
    candidate, reference = np.zeros((1, 60), int), np.zeros((1, 60), int)
    candidate[0, 6:8] = candidate[0, 20:22] = 1
    queue = started(candidate, reference, min_voxels=3)
    assert queue.items == ()

    queue = edit(queue, (candidate, reference), 5, 6, 1)

    assert [(i.region.voxels, i.region.box[1]) for i in queue.items] == [(3, (5, 8))]
