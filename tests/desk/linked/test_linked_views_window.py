"""Linked views in a real window beside a real viewer, used by mouse and keys."""

import gc
import weakref

import dask.array as da
import numpy as np
import pytest
from napari._qt.utils import QImg2array
from napari.layers import Image, Labels
from qtpy.QtCore import QPoint, Qt
from qtpy.QtWidgets import QApplication

from napari_medseg.case import InputError
from napari_medseg.desk.layers import layer_affine
from napari_medseg.desk.linked import LinkedViews, Mode, open_linked_views
from napari_medseg.desk.linked.commands import COMMANDS, KEYS
from napari_medseg.desk.linked.following import camera_of

SHAPE = (8, 60, 80)


@pytest.fixture
def case(make_napari_viewer):
    """A shown viewer with a dark volume and three candidates: all label 1, left half label 1, nothing."""
    viewer = make_napari_viewer(show=True)
    place = {"scale": (2.0, 0.5, 0.5), "translate": (1.0, 5.0, -3.0), "units": ("mm", "mm", "mm")}
    image = viewer.add_image(np.full(SHAPE, 10, np.uint8), contrast_limits=(0, 255), name="CT", **place)
    everywhere, left = np.ones(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    left[:, :, :40] = 1
    candidates = [
        viewer.add_labels(data, name=name, opacity=1, **place)
        for name, data in (("all", everywhere), ("left", left), ("none", np.zeros(SHAPE, np.uint8)))
    ]
    return viewer, image, candidates


@pytest.fixture
def opened(case, qtbot):
    viewer, image, candidates = case
    views = open_linked_views(viewer, image, candidates, outlines=False)
    activate(qtbot, views)
    yield viewer, views, candidates
    views.close()


def activate(qtbot, views):
    # within the screen of the tests, beyond which there is no mouse
    views.window.resize(760, 560)
    views.window.activateWindow()
    views.canvas.native.setFocus()
    qtbot.waitUntil(views.window.isActiveWindow, timeout=20_000)
    settle()


def settle():
    for _ in range(10):
        QApplication.processEvents()


def press(qtbot, views, key, modifier=Qt.KeyboardModifier.NoModifier):
    qtbot.keyClick(views.canvas.native, key, modifier)
    settle()


def drawn(views):
    """The picture without titles, as RGB integers."""
    settle()
    return QImg2array(views.canvas.native.grabFramebuffer())[..., :3].astype(int)


def coloured(views, number, share):
    """Whether the label's colour is drawn at this share of a panel's width, in the middle of its height."""
    cell = views.canvas.cells()[number]
    picture = drawn(views)
    ratio = picture.shape[1] / views.canvas.size_in_pixels[0]
    pixel = picture[round((cell.y + cell.height / 2) * ratio), round((cell.x + share * cell.width) * ratio)]
    return bool(np.ptp(pixel) > 30)


def test_each_panel_draws_its_own_candidate_over_the_image(opened):
    _, views, _ = opened
    assert [coloured(views, n, 0.3) for n in (1, 2, 3)] == [True, True, False]
    assert [coloured(views, n, 0.7) for n in (1, 2, 3)] == [True, False, False]


@pytest.mark.slow
def test_layers_share_arrays_and_place(opened):
    viewer, views, candidates = opened
    for mirrors, candidate in zip(views.mirrors.values(), candidates, strict=True):
        below, above = (mirror.shown for mirror in mirrors)
        assert above.data is candidate.data and below.data is viewer.layers["CT"].data
        np.testing.assert_allclose(layer_affine(above), layer_affine(candidate))
        assert above.units == candidate.units


def test_panels_and_main_viewer_go_together(opened, qtbot):
    viewer, views, _ = opened
    panels = views.canvas.viewer
    viewer.dims.set_current_step(0, 5)
    assert panels.dims.current_step[0] == 5
    camera_of(viewer).center = (0, 12, 9)
    assert camera_of(panels).center[-2:] == (12, 9)
    ratio = camera_of(panels).zoom / camera_of(viewer).zoom
    camera_of(viewer).zoom *= 3
    assert camera_of(panels).zoom / camera_of(viewer).zoom == pytest.approx(ratio)
    # and back, by keys in the panels
    press(qtbot, views, Qt.Key.Key_Left)
    press(qtbot, views, Qt.Key.Key_Plus)
    qtbot.waitUntil(lambda: viewer.dims.current_step[0] == 4, timeout=20_000)
    zoomed = pytest.approx(ratio)
    qtbot.waitUntil(lambda: camera_of(panels).zoom / camera_of(viewer).zoom == zoomed, timeout=20_000)
    viewer.dims.order = (1, 0, 2)
    assert tuple(panels.dims.order) == (1, 0, 2)


@pytest.mark.slow
def test_follow_can_be_switched_off_by_its_key(opened, qtbot):
    viewer, views, _ = opened
    press(qtbot, views, Qt.Key.Key_L)
    before = views.canvas.viewer.dims.current_step
    viewer.dims.set_current_step(0, before[0] + 2)
    camera_of(viewer).zoom *= 2
    assert views.canvas.viewer.dims.current_step == before
    press(qtbot, views, Qt.Key.Key_L)
    assert views.canvas.viewer.dims.current_step[0] == before[0] + 2


def test_keys_maximise_flicker_wipe_and_leave(opened, qtbot):
    _, views, _ = opened
    zoom = camera_of(views.canvas.viewer).zoom
    press(qtbot, views, Qt.Key.Key_2)
    press(qtbot, views, Qt.Key.Key_2)
    assert views.arrangement.shown == (2,)
    assert coloured(views, 2, 0.4) and not coloured(views, 2, 0.6)
    press(qtbot, views, Qt.Key.Key_Escape)
    # the same part of the image as before
    assert camera_of(views.canvas.viewer).zoom == pytest.approx(zoom)
    # the pair is 1 and 2; on the right half only 1 has a label
    press(qtbot, views, Qt.Key.Key_Space)
    assert views.arrangement.shown == (1,) and coloured(views, 1, 0.6)
    press(qtbot, views, Qt.Key.Key_Space)
    assert views.arrangement.shown == (2,) and not coloured(views, 2, 0.6)
    press(qtbot, views, Qt.Key.Key_W)
    press(qtbot, views, Qt.Key.Key_3)
    # 2 on the left of the divider, 3 (nothing) on the right
    picture = drawn(views)
    middle, width = picture.shape[0] // 2, picture.shape[1]
    assert np.ptp(picture[middle, round(0.48 * width)]) > 30
    for _ in range(3):
        press(qtbot, views, Qt.Key.Key_Left, Qt.KeyboardModifier.ShiftModifier)
    assert views.arrangement.split == pytest.approx(0.2)
    assert np.ptp(drawn(views)[middle, round(0.48 * width)]) < 10
    press(qtbot, views, Qt.Key.Key_Escape)
    assert views.arrangement.mode is Mode.PANELS
    press(qtbot, views, Qt.Key.Key_Escape)
    assert not views.is_open


@pytest.mark.slow
def test_the_divider_follows_the_mouse(opened, qtbot):
    _, views, _ = opened
    press(qtbot, views, Qt.Key.Key_W)
    divider, native = views.window.divider, views.canvas.native
    qtbot.mousePress(divider, Qt.MouseButton.LeftButton, pos=QPoint(8, 100))
    target = divider.mapFrom(native, QPoint(round(0.3 * native.width()), 100))
    # QTest moves without buttons held
    from qtpy.QtCore import QEvent, QPointF
    from qtpy.QtGui import QMouseEvent

    move = QMouseEvent(
        QEvent.Type.MouseMove,
        QPointF(target),
        QPointF(divider.mapToGlobal(target)),
        Qt.MouseButton.NoButton,
        Qt.MouseButton.LeftButton,
        Qt.KeyboardModifier.NoModifier,
    )
    QApplication.sendEvent(divider, move)
    assert views.arrangement.split == pytest.approx(0.3, abs=0.01)
    assert abs(divider.geometry().center().x() - 0.3 * native.width()) <= 2


@pytest.mark.slow
def test_every_command_has_key_button_and_tooltip(opened, qtbot):
    _, views, _ = opened
    for command in COMMANDS:
        action, button = views.window.actions_by_name[command.name], views.window.buttons[command.name]
        assert button.isVisible() and command.meaning in button.toolTip()
        assert [key.toString() for key in action.shortcuts()] == list(command.keys)
        assert hasattr(views, f"_{command.name}")
    assert all(hasattr(views, f"_{name}") for name, _ in KEYS)
    qtbot.mouseClick(views.window.buttons["wipe"], Qt.MouseButton.LeftButton)
    assert views.arrangement.mode is Mode.WIPE
    qtbot.mouseClick(views.window.buttons["leave"], Qt.MouseButton.LeftButton)
    qtbot.mouseClick(views.window.buttons[3], Qt.MouseButton.LeftButton)
    assert views.arrangement.focus == 3
    qtbot.mouseClick(views.window.buttons["fit"], Qt.MouseButton.LeftButton)
    qtbot.mouseClick(views.window.buttons["volume"], Qt.MouseButton.LeftButton)
    assert views.canvas.viewer.dims.ndisplay == 3
    # the other panels have room for another button only where there is a candidate
    assert not views.window.buttons[4].isVisible()


@pytest.mark.slow
def test_keys_of_the_panels_do_nothing_in_the_main_viewer(opened, qtbot):
    viewer, views, candidates = opened
    viewer.layers.selection.active = candidates[0]
    candidates[0].mode = "pan_zoom"
    for key in (Qt.Key.Key_1, Qt.Key.Key_2, Qt.Key.Key_3):
        press(qtbot, views, key)
    assert candidates[0].mode == "pan_zoom"
    assert len(viewer.layers) == 4


@pytest.mark.slow
def test_cursor_is_at_the_same_place_in_all_panels_and_says_what_each_candidate_has(opened, qtbot):
    _, views, _ = opened
    cells = views.canvas.cells()
    spot = QPoint(round(cells[2].x + 0.6 * cells[2].width), round(cells[2].y + 0.5 * cells[2].height))
    qtbot.mouseMove(views.canvas.native, spot)
    said = {1: "1", 2: "0 background", 3: "0 background"}
    qtbot.waitUntil(lambda: views.window.glass.said == said, timeout=20_000)
    relative = {
        (round(x - cell.x), round(y - cell.y))
        for x, y in views.window.glass.crosses()
        for cell in cells.values()
        if cell.x <= x < cell.x + cell.width and cell.y <= y < cell.y + cell.height
    }
    across = [x for x, _ in relative]
    assert len(views.window.glass.crosses()) == 3 and max(across) - min(across) <= 1
    # the main viewer's cursor shows too: the world position of voxel (y 30, x 20) is left of the middle
    offset = views.canvas.offset_of((1.0, 20.0, 7.0))
    zoom = camera_of(views.canvas.viewer).zoom
    centre = camera_of(views.canvas.viewer).center
    assert offset == pytest.approx(((7.0 - centre[-1]) * zoom, (20.0 - centre[-2]) * zoom))
    assert views.canvas.world_at(offset)[-2:] == pytest.approx((20.0, 7.0))


def test_an_edit_in_the_main_viewer_shows_in_the_panels(opened, qtbot):
    viewer, views, candidates = opened
    candidates[2].brush_size = 40
    step = viewer.dims.current_step[0]
    candidates[2].paint((step, 30, 40), 1)
    qtbot.waitUntil(lambda: coloured(views, 3, 0.5), timeout=20_000)
    candidates[2].undo()
    qtbot.waitUntil(lambda: not coloured(views, 3, 0.5), timeout=20_000)
    candidates[2].data = np.ones(SHAPE, np.uint8)
    qtbot.waitUntil(lambda: coloured(views, 3, 0.2), timeout=20_000)
    assert views.mirrors[3][-1].shown.data is candidates[2].data


@pytest.mark.slow
def test_contrast_of_the_main_viewer_shows_in_all_panels(opened):
    viewer, views, _ = opened
    cell = views.canvas.cells()[3]
    dark = drawn(views)[cell.y + cell.height // 2, cell.x + cell.width // 2].mean()
    viewer.layers["CT"].contrast_limits = (0, 10)
    bright = drawn(views)[cell.y + cell.height // 2, cell.x + cell.width // 2].mean()
    assert dark < 30 and bright > 240


def test_renamed_and_removed_candidates(opened, qtbot):
    viewer, views, candidates = opened
    candidates[1].name = "nnU-Net & friends"
    assert views.arrangement.panel(2).title == "2 ▲ nnU-Net & friends"
    assert views.window.buttons[2].text() == "2 ▲ nnU-Net && friends"
    viewer.layers.remove(candidates[0])
    assert views.arrangement.numbers == (2, 3)
    assert coloured(views, 2, 0.3) and not coloured(views, 3, 0.3)
    press(qtbot, views, Qt.Key.Key_2)
    assert views.arrangement.focus == 2
    viewer.add_labels(np.zeros((4, 4), int), name="another")
    viewer.layers.remove(candidates[2])
    assert not views.window.actions_by_name["wipe"].isEnabled()
    assert coloured(views, 2, 0.3)
    viewer.layers.remove(candidates[1])
    assert not views.is_open


@pytest.mark.slow
def test_candidates_outlive_their_image(opened):
    viewer, views, _ = opened
    viewer.layers.remove("CT")
    assert "CT was removed" in views.window.message.text() and views.window.message.isVisible()
    assert all(len(mirrors) == 1 for mirrors in views.mirrors.values())
    assert [coloured(views, n, 0.7) for n in (1, 2, 3)] == [True, False, False]


@pytest.mark.slow
def test_volume_rendering_shows_each_candidate(opened, qtbot):
    viewer, views, _ = opened
    press(qtbot, views, Qt.Key.Key_V)
    qtbot.waitUntil(lambda: viewer.dims.ndisplay == 3, timeout=20_000)
    assert [coloured(views, n, 0.45) for n in (1, 2, 3)] == [True, True, False]
    camera_of(views.canvas.viewer).angles = (0, 30, 80)
    qtbot.waitUntil(lambda: camera_of(viewer).angles == pytest.approx((0, 30, 80)), timeout=20_000)
    press(qtbot, views, Qt.Key.Key_V)
    assert views.canvas.viewer.dims.ndisplay == 2


@pytest.mark.slow
def test_volume_rendering_raises_no_warning_of_outlines(opened, qtbot, recwarn):
    _, views, _ = opened
    press(qtbot, views, Qt.Key.Key_O)
    press(qtbot, views, Qt.Key.Key_V)
    candidate = views.mirrors[1][-1].shown
    assert candidate.contour == 0
    press(qtbot, views, Qt.Key.Key_V)
    assert candidate.contour > 0
    assert not [w for w in recwarn if "Contours" in str(w.message)]


@pytest.mark.slow
def test_outlines_stay_visible_from_afar(opened, qtbot):
    _, views, _ = opened
    press(qtbot, views, Qt.Key.Key_O)
    candidate = views.mirrors[2][-1].shown
    # voxels are 0.5 mm: at 1.33 screen pixels a mm two pixels of outline are three voxels
    camera_of(views.canvas.viewer).zoom = 1.33
    qtbot.waitUntil(lambda: [m[-1].shown.contour for m in views.mirrors.values()] == [3, 3, 3], timeout=20_000)
    camera_of(views.canvas.viewer).zoom = 10
    qtbot.waitUntil(lambda: candidate.contour == 2, timeout=20_000)


@pytest.mark.slow
def test_each_panel_of_a_pyramid_reads_its_own_level(make_napari_viewer, qtbot):
    viewer = make_napari_viewer(show=True)
    full = np.zeros((2048, 2048), np.uint8)
    full[:1024] = 3

    def pyramid(array):
        return [da.from_array(array[::s, ::s], chunks=256) for s in (1, 2, 4, 8)]

    viewer.add_image(pyramid(full), contrast_limits=(0, 255), name="slide")
    viewer.add_labels(pyramid(full), opacity=1, name="a")
    viewer.add_labels(pyramid(np.flipud(full)), opacity=1, name="b")
    views = open_linked_views(viewer, viewer.layers["slide"], [viewer.layers["a"], viewer.layers["b"]], outlines=False)
    activate(qtbot, views)
    # the coarsest level that still has a pixel for each of the screen
    fitting = int(np.log2(1 / camera_of(views.canvas.viewer).zoom))
    assert fitting > 0
    assert {layer.data_level for layer in views.canvas.viewer.layers} == {fitting}
    for _ in range(12):
        views.do("zoom_in")
    drawn(views)
    levels = {layer.data_level for layer in views.canvas.viewer.layers}
    assert levels == {0}
    views.do("fit")
    camera_of(views.canvas.viewer).center = (0, 600, 1024)
    views.do("zoom_in")
    views.do("zoom_in")
    assert [coloured(views, n, 0.5) for n in (1, 2)] == [True, False]
    views.close()


@pytest.mark.slow
def test_time_and_channels(make_napari_viewer, qtbot):
    viewer = make_napari_viewer(show=True)
    clip = np.zeros((5, 40, 50, 3), np.uint8)
    image = viewer.add_image(clip, rgb=True, scale=(0.1, 1, 1))
    other = viewer.add_image(clip[..., 0], scale=(0.1, 1, 1), blending="additive", contrast_limits=(0, 9))
    late = np.zeros((5, 40, 50), np.uint8)
    late[3] = 1
    first, second = (viewer.add_labels(d, scale=(0.1, 1, 1), opacity=1) for d in (late, late[::-1].copy()))
    views = open_linked_views(viewer, (image, other), [first, second], outlines=False)
    activate(qtbot, views)
    viewer.dims.set_current_step(0, 3)
    assert [coloured(views, n, 0.5) for n in (1, 2)] == [True, False]
    viewer.dims.set_current_step(0, 1)
    assert [coloured(views, n, 0.5) for n in (1, 2)] == [False, True]
    views.close()


def test_opened_and_closed_many_times_nothing_is_left_behind(case, qtbot):
    viewer, image, candidates = case
    layers = [image, *candidates]

    def listeners():
        emitters = [e for layer in layers for e in layer.events.emitters.values()]
        emitters += [viewer.layers.events.removed, viewer.events.theme]
        models = [viewer.dims, viewer.cursor, camera_of(viewer)]
        return [len(e.callbacks) for e in emitters], [
            len(getattr(m.events, name))
            if hasattr(getattr(m.events, name), "__len__")
            else len(getattr(m.events, name).callbacks)
            for m, name in zip(models, ("point", "position", "zoom"), strict=True)
        ]

    before = listeners()
    gone = []
    for _ in range(3):
        views = open_linked_views(viewer, image, candidates)
        settle()
        gone += [
            weakref.ref(o) for o in (views, views.canvas.viewer, views.canvas.view.canvas, views.mirrors[1][0].shown)
        ]
        gone += [weakref.ref(views.window), weakref.ref(views.canvas.view)]
        views.arrangement.wipe()
        views.close()
        views.close()
        assert not views.is_open
        del views
        settle()
        qtbot.wait(20)
    assert listeners() == before
    qtbot.wait(50)
    for _ in range(3):
        gc.collect()
        settle()
    assert [o() for o in gone if o() is not None] == []
    assert not LinkedViews._open


@pytest.mark.slow
def test_another_viewer_comes_and_goes_without_a_trace_in_the_panels(opened, make_napari_viewer, qtbot):
    """napari alone deletes the textures of whichever canvas drew last; the next frame then ends the program."""
    viewer, views, _ = opened
    other = make_napari_viewer(show=True)
    for _ in range(3):
        other.add_image(np.zeros((50, 60)))
        other.add_labels(np.ones((50, 60), int))
    settle()
    QApplication.instance().focusWindowChanged.emit(None)
    drawn(views)
    other.layers.remove(other.layers[0])
    drawn(views)
    other.close()
    assert views.is_open
    viewer.dims.set_current_step(0, 1)
    for layer in views.canvas.viewer.layers:
        layer.refresh()
    assert [coloured(views, n, 0.7) for n in (1, 2, 3)] == [True, False, False]


def test_closes_with_the_main_viewer(make_napari_viewer, qtbot):
    viewer = make_napari_viewer(show=True)
    image = viewer.add_image(np.zeros((20, 20)))
    pair = [viewer.add_labels(np.ones((20, 20), int)) for _ in range(2)]
    views = open_linked_views(viewer, image, pair)
    settle()
    viewer.close()
    settle()
    assert not views.is_open


@pytest.mark.slow
def test_blink_goes_on_until_escape(opened, qtbot):
    _, views, _ = opened
    press(qtbot, views, Qt.Key.Key_B)
    assert views.arrangement.mode is Mode.FLICKER and views.window.actions_by_name["blink"].isChecked()
    qtbot.waitUntil(lambda: views.arrangement.shown == (2,), timeout=20_000)
    qtbot.waitUntil(lambda: views.arrangement.shown == (1,), timeout=20_000)
    press(qtbot, views, Qt.Key.Key_Escape)
    assert views.arrangement.mode is Mode.PANELS and not views.window.actions_by_name["blink"].isChecked()
    qtbot.wait(900)
    assert views.arrangement.mode is Mode.PANELS


@pytest.mark.slow
def test_theme_follows(opened):
    viewer, views, _ = opened
    dark = views.window.styleSheet()
    viewer.theme = "light"
    assert views.window.styleSheet() != dark and views.canvas.viewer.theme == "light"


@pytest.mark.slow
def test_what_cannot_be_shown_is_refused_in_words(case):
    viewer, image, candidates = case
    with pytest.raises(InputError, match="choose 2 to 6"):
        open_linked_views(viewer, image, candidates[:1])
    with pytest.raises(InputError, match="twice"):
        open_linked_views(viewer, image, [candidates[0], candidates[0]])
    with pytest.raises(InputError, match="stranger is not in the viewer"):
        open_linked_views(viewer, image, [candidates[0], Labels(np.zeros((3, 3), int), name="stranger")])
    points = viewer.add_points(np.zeros((1, 3)), name="seeds")
    with pytest.raises(InputError, match="seeds holds points"):
        open_linked_views(viewer, image, [candidates[0], points])
    assert not LinkedViews._open


@pytest.mark.slow
def test_image_candidates(make_napari_viewer, qtbot):
    """Probability maps or restored images instead of labels."""
    viewer = make_napari_viewer(show=True)
    image = viewer.add_image(np.zeros((30, 30)), contrast_limits=(0, 1))
    maps = [
        viewer.add_image(np.full((30, 30), v), colormap="magma", contrast_limits=(0, 1), name=f"p {v}")
        for v in (0.0, 0.6)
    ]
    views = open_linked_views(viewer, image, maps)
    activate(qtbot, views)
    assert [coloured(views, n, 0.5) for n in (1, 2)] == [False, True]
    assert isinstance(views.mirrors[1][-1].shown, Image)
    views.close()
