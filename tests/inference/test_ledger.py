import json

import pytest

from napari_medseg.case import InputError, MedsegError, OtherRunError
from napari_medseg.inference.ledger import Ledger, UnitRecord

HEADER = {"image": {"shape": [4, 5]}, "options": {"overlap": 0.25, "region": None}}


def test_what_was_written_is_read_again(tmp_path):
    ledger = Ledger.start(tmp_path / "a.ledger", HEADER)
    ledger.add(0, UnitRecord(3, 1, 77))
    ledger.add(2, UnitRecord(4, 0, 5, objects=9))
    ledger.climb("batch of 2")
    again = Ledger.read(tmp_path / "a.ledger")
    assert again.records == {0: UnitRecord(3, 1, 77), 2: UnitRecord(4, 0, 5, 9)}
    assert again.ladder == ["batch of 2"]
    again.require_same(HEADER)
    assert again.tiles(9) == {"planned": 9, "done": 7, "failed": 0, "skipped": 1}
    with pytest.raises(MedsegError, match="Of 9 tiles only 7"):
        again.require_complete(9)
    assert again.require_complete(8)["skipped"] == 1


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_line_that_was_being_written_does_not_count(tmp_path, cut):
    path = tmp_path / "a.ledger"
    ledger = Ledger.start(path, HEADER)
    ledger.add(0, UnitRecord(3, 1, 77))
    whole = path.read_bytes()
    ledger.add(1, UnitRecord(3, 1, 78))
    line = path.read_bytes()[len(whole) :]
    path.write_bytes(whole + line[: max(1, min(cut, len(line) - 2))])
    again = Ledger.read(path)
    assert set(again.records) == {0}
    # and what follows is not glued to it
    again.add(1, UnitRecord(3, 1, 79))
    assert Ledger.read(path).records[1].checksum == 79


def test_a_failed_tile_is_on_record_until_its_unit_is_done(tmp_path):
    ledger = Ledger.start(tmp_path / "a.ledger", HEADER)
    ledger.fail(1, (0, 8), "InputError")
    assert ledger.tiles(4)["failed"] == 1
    assert json.loads((tmp_path / "a.ledger").read_text().splitlines()[1]) == {
        "unit": 1,
        "failed_tile": [0, 8],
        "reason": "InputError",
    }
    ledger.add(1, UnitRecord(4, 0, 1))
    assert ledger.require_complete(4)["failed"] == 0


def test_a_unit_that_was_lost_is_pending_again(tmp_path):
    ledger = Ledger.start(tmp_path / "a.ledger", HEADER)
    ledger.add(1, UnitRecord(4, 0, 1))
    ledger.forget(1)
    assert ledger.records == {}
    assert Ledger.read(tmp_path / "a.ledger").records == {}


def test_another_run_is_named(tmp_path):
    ledger = Ledger.start(tmp_path / "a.ledger", HEADER)
    with pytest.raises(OtherRunError, match=r"other options \(overlap\)"):
        ledger.require_same({**HEADER, "options": {"overlap": 0.5, "region": None}})
    with pytest.raises(OtherRunError, match=r"another image \(shape\)"):
        ledger.require_same({**HEADER, "image": {"shape": [4, 6]}})


@pytest.mark.parametrize("content", [b"", b"not json\n"])
def test_a_lost_ledger_is_said(tmp_path, content):
    (tmp_path / "a.ledger").write_bytes(content)
    with pytest.raises(InputError, match="lost its ledger"):
        Ledger.read(tmp_path / "a.ledger")
