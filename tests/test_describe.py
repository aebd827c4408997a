import numpy as np

from napari_medseg.bundles import BundleEntry
from napari_medseg.case import Geometry, LabelTable, MedicalImage, Modality, Provenance, Segmentation, Source, Step
from napari_medseg.describe import describe_image, describe_labels, describe_model


def test_a_video_in_words(tmp_path):
    frames = np.zeros((7, 4, 5, 3), np.uint8)
    video = MedicalImage(
        (frames,),
        "tyxc",
        Geometry.from_spacing((4, 5), None),
        Modality.ES,
        "RGB",
        name="clip",
        source=Source("video", (tmp_path / "secret name.mp4",)),
        seconds_per_frame=0.04,
        details={"codec": "h264", "rate": 25.0, "size": (4, 5)},
        warnings=("frame times vary",),
    )
    told = describe_image(video)
    assert (told["modality"], told["axes"], told["shape"]) == ("ES", "tyxc", [7, 4, 5, 3])
    assert (told["frames"], told["seconds_per_frame"], told["unit"]) == (7, 0.04, None)
    assert told["details"] == {"codec": "h264", "rate": 25.0, "size": "(4, 5)"}
    assert told["warnings"] == ["frame times vary"]
    assert "spacing_mm" not in told
    assert "secret" not in str(told)


def test_a_slide_in_words():
    levels = (np.zeros((8, 12, 3), np.uint8), np.zeros((4, 6, 3), np.uint8))
    geometry = Geometry.from_spacing((8, 12), (0.5, 0.25), "um", origin=(3.0, 4.0, 0.0))
    told = describe_image(MedicalImage(levels, "yxc", geometry, Modality.SM, "stain RGB", objective_power=20.0))
    assert told["spacing_um"] == [0.5, 0.25]
    assert told["origin_um"] == [3.0, 4.0, 0.0]
    assert told["levels"] == [[8, 12], [4, 6]]
    assert told["objective_power"] == 20.0
    assert told["orientation"] == ["down", "right"]


def test_labels_in_words():
    grid = Geometry.from_spacing((2, 3, 4), (3.0, 1.0, 1.0), "mm", "patient")
    history = Provenance().with_step(Step("segment", "2026-01-01T00:00:00+00:00", {}))
    told = describe_labels(Segmentation(np.zeros((2, 3, 4), np.uint8), grid, LabelTable.from_names(["liver"]), history))
    assert told["labels"] == [{"id": 1, "name": "liver"}]
    assert told["spacing_mm"] == [3.0, 1.0, 1.0]
    assert told["history"] == ["segment 2026-01-01T00:00:00+00:00"]
    assert told["orientation"] == ["S", "A", "R"]


def test_a_broken_model_says_what_is_wrong(tmp_path):
    told = describe_model(BundleEntry("odd", tmp_path, "user folder", None, "", 0, "odd has no weights"))
    assert told["problem"] == "odd has no weights"
    assert "labels" not in told
