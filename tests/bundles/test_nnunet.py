"""Results folders of nnU-Net v2 become bundles: read without running anything, and giving the same numbers."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from napari_medseg.bundles import load_model
from napari_medseg.bundles.nnunet import convert_nnunet, describe_nnunet, read_checkpoint
from napari_medseg.case import InputError, RefusedError
from tests.bundles.nnunet_cases import KERNELS, STRIDES, changed, dataset, original, plans, results


def test_a_bundle_gives_the_numbers_of_the_network_it_came_from(tmp_path: Path) -> None:
    model = convert_nnunet(results(tmp_path), tmp_path / "liver", licence="CC BY-SA 4.0")
    again = load_model(tmp_path / "liver", trust=set())
    assert again.verified and not again.trusted
    image = torch.randn(1, 1, 16, 8, 12)
    turned = image.permute(0, 1, 3, 2, 4)
    with torch.no_grad():
        expected = original()(turned).permute(0, 1, 3, 2, 4)
        torch.testing.assert_close(again.network()(image), expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(model.network()(image), expected, atol=1e-5, rtol=1e-5)


def test_the_plan_is_in_the_bundle_with_the_axes_of_the_stored_array(tmp_path: Path) -> None:
    model = convert_nnunet(results(tmp_path), tmp_path / "liver")
    assert model.tile == (16, 8, 12)
    assert model.spacing == (1.5, 3.0, 0.75)
    assert model.unit == "mm"
    assert model.divisible_by == (4, 2, 4)
    assert model.overlap == 0.5
    assert model.orientation is None
    assert model.activation == "softmax" and model.threshold is None
    assert model.out_channels == 3
    assert model.network_def["strides"] == [[1, 1, 1], [2, 1, 2], [2, 2, 2]]
    assert model.network_def["kernel_sizes"] == [[3, 1, 3], [3, 3, 3], [3, 3, 3]]


def test_the_card_says_what_is_known(tmp_path: Path) -> None:
    path = results(tmp_path)
    (path / "fold_0" / "validation").mkdir()
    (path / "fold_0" / "validation" / "summary.json").write_text(json.dumps({"foreground_mean": {"Dice": 0.87654}}))
    card = convert_nnunet(path, tmp_path / "liver").card
    assert card.id == "liver"
    assert card.name == "Dataset042_Liver fine, fold 0"
    assert [(label.id, label.name) for label in card.labels] == [(1, "liver"), (2, "tumour")]
    assert card.modality == ("CT",) and card.channels == ("CT",)
    assert card.licence == "not stated"
    assert card.training_data[0]["licence"] == "CC BY-SA 4.0"
    assert card.training_data[0]["images"] == 131
    assert "1000 epochs" in card.recipe and "nnUNetTrainer" in card.recipe
    assert card.reference_scores == {"fold 0": {"dice": 0.8765}}
    readme = (tmp_path / "liver" / "docs" / "README.md").read_text()
    assert "cubic splines" in readme and "mirrored" in readme


@pytest.mark.parametrize(
    "schemes, values, expected",
    [
        # clipped to -150 ... 250, minus 60, over 80
        (["CTNormalization"], [[-1000.0, -150.0, 60.0, 140.0, 250.0, 3000.0]], [[-2.625, -2.625, 0, 1, 2.375, 2.375]]),
        (["NoNormalization"], [[1.0, 2.0]], [[1.0, 2.0]]),
        (["RGBTo01Normalization"], [[0.0, 51.0, 255.0]], [[0.0, 0.2, 1.0]]),
        (["RescaleTo01Normalization"], [[2.0, 4.0, 6.0]], [[0.0, 0.5, 1.0]]),
        (["ZScoreNormalization"] * 2, [[1.0, 3.0], [10.0, 30.0]], [[-1.0, 1.0], [-1.0, 1.0]]),
        # two channels of CT, each with its own numbers
        (["CTNormalization"] * 2, [[-1000.0, 60.0, 140.0], [0.0, 5.0, 99.0]], [[-2.625, 0, 1], [-2.0, 0.5, 3.0]]),
    ],
)
def test_intensities_are_prepared_as_nnunet_does(
    tmp_path: Path, schemes: list[str], values: Any, expected: Any
) -> None:
    plan = changed(plans(), "configurations/base/normalization_schemes", schemes)
    plan["configurations"]["base"]["use_mask_for_norm"] = [False] * len(schemes)
    second = {"mean": 4.0, "std": 2.0, "percentile_00_5": 0.0, "percentile_99_5": 10.0}
    plan["foreground_intensity_properties_per_channel"]["1"] = second
    data = changed(dataset(), "channel_names", {str(k): f"c{k}" for k in range(len(schemes))})
    path = results(tmp_path, plan=plan, data=data, network=original(channels=len(schemes)))
    model = convert_nnunet(path, tmp_path / "liver")
    image = np.asarray(values, dtype=np.float32)
    found = model.intensity.apply(image, model.intensity.statistics(image))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_mask_leaves_zeros_alone(tmp_path: Path) -> None:
    plan = changed(plans(), "configurations/base/normalization_schemes", ["ZScoreNormalization"])
    plan["configurations"]["base"]["use_mask_for_norm"] = [True]
    found = describe_nnunet(results(tmp_path, plan=plan))
    image = np.array([[0.0, 0.0, 1.0, 3.0]], dtype=np.float32)
    steps = found.before.intensity
    np.testing.assert_allclose(steps.apply(image, steps.statistics(image)), [[0, 0, -1, 1]])
    assert any("without its zeros" in limit for limit in found.limits)


def test_slices_of_a_volume_keep_or_swap_their_axes(tmp_path: Path) -> None:
    image = torch.randn(1, 1, 16, 12)
    straight = convert_nnunet(results(tmp_path / "a", plan=plans(2), network=original(2)), tmp_path / "straight")
    assert (straight.spatial_dims, straight.tile, straight.spacing) == (2, (16, 12), (1.5, 0.75))
    plan = changed(plans(2), "transpose_forward", [0, 2, 1])
    swapped = convert_nnunet(results(tmp_path / "b", plan=plan, network=original(2)), tmp_path / "swapped")
    assert (swapped.tile, swapped.spacing) == ((12, 16), (0.75, 1.5))
    with torch.no_grad():
        expected = original(2)(image)
        torch.testing.assert_close(straight.network()(image), expected, atol=1e-5, rtol=1e-5)
        turned = swapped.network()(image.transpose(2, 3)).transpose(2, 3)
        torch.testing.assert_close(turned, expected, atol=1e-5, rtol=1e-5)


def test_photographs_have_no_spacing(tmp_path: Path) -> None:
    plan = changed(plans(2), "image_reader_writer", "NaturalImage2DIO")
    model = convert_nnunet(results(tmp_path, plan=plan, network=original(2)), tmp_path / "photo")
    assert model.spacing is None and model.unit is None


def test_an_orientation_is_stated_where_it_is_known(tmp_path: Path) -> None:
    path = results(tmp_path)
    assert convert_nnunet(path, tmp_path / "told", orientation="SPL").orientation == ("S", "P", "L")
    (path / "plans.json").write_text(json.dumps(changed(plans(), "image_reader_writer", "NibabelIOWithReorient")))
    assert convert_nnunet(path, tmp_path / "turned").orientation == ("S", "A", "R")
    flat = results(tmp_path / "flat", plan=plans(2), network=original(2))
    with pytest.raises(InputError, match="goes with a network for volumes"):
        convert_nnunet(flat, tmp_path / "flat_told", orientation="SPL")


def test_one_region_alone_is_a_probability_with_a_threshold(tmp_path: Path) -> None:
    data = changed(dataset(), "labels", {"background": 0, "whole tumour": [1, 2]}) | {"regions_class_order": [1]}
    model = convert_nnunet(results(tmp_path, data=data, network=original(maps=1)), tmp_path / "region")
    assert (model.activation, model.threshold, model.out_channels) == ("sigmoid", 0.5, 1)
    assert [label.name for label in model.card.labels] == ["whole tumour"]


def test_a_label_to_be_ignored_is_no_label(tmp_path: Path) -> None:
    data = changed(dataset(), "labels", {"background": 0, "liver": 1, "tumour": 2, "ignore": 3})
    assert describe_nnunet(results(tmp_path, data=data)).labels == {1: "liver", 2: "tumour"}


def test_plans_of_older_versions_are_read(tmp_path: Path) -> None:
    plan = plans()
    base = plan["configurations"]["base"]
    del base["architecture"]
    base |= {
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": 4,
        "unet_max_num_features": 6,
        "n_conv_per_stage_encoder": [2, 1, 1],
        "n_conv_per_stage_decoder": [1, 2],
        "num_pool_per_axis": [1, 2, 2],
        "pool_op_kernel_sizes": STRIDES,
        "conv_kernel_sizes": KERNELS,
    }
    plan["foreground_intensity_properties_by_modality"] = plan.pop("foreground_intensity_properties_per_channel")
    data = dataset()
    data["modality"] = data.pop("channel_names")
    found = describe_nnunet(results(tmp_path, plan=plan, data=data))
    assert found.network_def["widths"] == [4, 6, 6]
    assert found.network_def["strides"] == [[1, 1, 1], [2, 1, 2], [2, 2, 2]]
    assert found.channels == ("CT",)


def test_every_fold_is_a_model_of_its_own(tmp_path: Path) -> None:
    path = results(tmp_path, folds=("0", "2", "all"))
    with pytest.raises(InputError, match="has the folds 0, 2, all; say which one"):
        describe_nnunet(path)
    with pytest.raises(InputError, match="has no fold 1; there are 0, 2, all"):
        describe_nnunet(path, "1")
    found = describe_nnunet(path, "2")
    assert (found.fold, found.folds, found.epochs) == ("2", ("0", "2", "all"), 1000)


@pytest.mark.parametrize(
    "where, value, sentence",
    [
        ("transpose_forward", [0, 0, 1], "turn the axes"),
        ("configurations/fine/previous_stage", "3d_lowres", "cascades are not supported"),
        ("configurations/fine/preprocessor_name", "OwnPreprocessor", "prepared by OwnPreprocessor"),
        ("configurations/fine/inherits_from", "fine", "lead back to itself"),
        ("configurations/fine/inherits_from", "gone", "no configuration gone"),
        ("configurations/base/architecture/network_class_name", "x.ResidualEncoderUNet", "is a ResidualEncoderUNet"),
        ("configurations/base/architecture/arch_kwargs/norm_op", "torch.nn.BatchNorm3d", "by default is supported"),
        ("configurations/base/architecture/arch_kwargs/conv_bias", False, "by default is supported"),
        ("configurations/base/architecture/arch_kwargs/strides", [[1, 1]], "cannot be read as those of nnU-Net"),
        ("configurations/base/normalization_schemes", ["OwnNormalization"], "OwnNormalization, which is not"),
        ("configurations/base/normalization_schemes", ["A", "B"], "one way for all of them"),
        ("foreground_intensity_properties_per_channel", {}, "cannot be read as those of nnU-Net"),
    ],
)
def test_what_is_not_supported_is_named(tmp_path: Path, where: str, value: Any, sentence: str) -> None:
    path = results(tmp_path, plan=changed(plans(), where, value))
    with pytest.raises(InputError, match=sentence):
        convert_nnunet(path, tmp_path / "liver")
    assert not (tmp_path / "liver").exists()


@pytest.mark.parametrize(
    "labels, sentence",
    [
        ({"background": 0, "liver": 1, "tumour": 3}, r"\[0, 1, 3\]; numbers from 0 without a gap"),
        ({"0": "background", "1": "liver"}, "no background with the label 0"),
        ({"background": 0, "whole": [1, 2], "core": 2}, "The labels whole are regions"),
    ],
)
def test_labels_that_are_not_supported_are_named(tmp_path: Path, labels: Any, sentence: str) -> None:
    path = results(tmp_path, data=changed(dataset(), "labels", labels))
    with pytest.raises(InputError, match=sentence):
        describe_nnunet(path)


def test_slices_along_another_axis_are_refused(tmp_path: Path) -> None:
    plan = changed(plans(2), "transpose_forward", [1, 0, 2])
    with pytest.raises(InputError, match="cuts volumes along axis 1"):
        describe_nnunet(results(tmp_path, plan=plan, network=original(2)))


def test_weights_of_another_network_write_nothing(tmp_path: Path) -> None:
    path = results(tmp_path, network=original(channels=2))
    with pytest.raises(InputError, match="do not fit the network"):
        convert_nnunet(path, tmp_path / "liver")
    assert not (tmp_path / "liver").exists()


def test_a_folder_that_is_none_is_told(tmp_path: Path) -> None:
    path = results(tmp_path)
    with pytest.raises(InputError, match=r"has no fold_\*/checkpoint_best.pth"):
        describe_nnunet(path, checkpoint="checkpoint_best.pth")
    (path / "dataset.json").write_text("{")
    with pytest.raises(InputError, match=r"dataset\.json cannot be read"):
        describe_nnunet(path)
    (path / "dataset.json").unlink()
    with pytest.raises(InputError, match=r"has no dataset\.json"):
        describe_nnunet(path)


class _Attack:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return Path.mkdir, (self.folder,)


def test_a_checkpoint_that_would_run_code_is_refused_unread(tmp_path: Path) -> None:
    target = tmp_path / "made by the checkpoint"
    path = results(tmp_path, logging={"ema_fg_dice": [_Attack(target)]})
    with pytest.raises(RefusedError, match=r"checkpoint_final.pth holds \S+, which could run code"):
        describe_nnunet(path)
    assert not target.exists()


def test_arrays_of_objects_are_refused(tmp_path: Path) -> None:
    path = results(tmp_path, logging={"ema_fg_dice": np.array([None, "x"], dtype=object)})
    with pytest.raises(RefusedError, match=r"holds \S+, which could run code"):
        describe_nnunet(path)


def test_nothing_stays_allowed_afterwards(tmp_path: Path) -> None:
    before = set(torch.serialization.get_safe_globals())
    describe_nnunet(results(tmp_path))
    assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize("core", ["core", "_core"])
def test_numbers_of_any_numpy_are_read(tmp_path: Path, core: str) -> None:
    """NumPy before version 2 wrote another name for the function that makes its numbers."""
    path = results(tmp_path) / "fold_0" / "checkpoint_final.pth"
    renamed = tmp_path / "renamed.pth"
    own = np.float64(0).__reduce__()[0].__module__.encode()
    with zipfile.ZipFile(path) as read, zipfile.ZipFile(renamed, "w", zipfile.ZIP_STORED) as written:
        for entry in read.infolist():
            content = read.read(entry)
            if entry.filename.endswith("data.pkl"):
                assert b"c" + own + b"\nscalar" in content
                content = content.replace(b"c" + own + b"\n", f"cnumpy.{core}.multiarray\n".encode())
            written.writestr(entry, content)
    assert read_checkpoint(renamed)["_best_ema"] == 0.4


@pytest.mark.parametrize("content", [{}, {"network_weights": {"a": 1}, "init_args": {}}, {"network_weights": {}}])
def test_other_files_of_torch_are_told(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"other\.pth is no checkpoint of nnU-Net v2"):
        read_checkpoint(tmp_path / "other.pth")
    (tmp_path / "none.pth").write_bytes(b"no file of torch at all")
    with pytest.raises((InputError, RefusedError), match=r"none\.pth"):
        read_checkpoint(tmp_path / "none.pth")
