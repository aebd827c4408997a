"""Grids and labels that the tests of the volume formats share."""

import numpy as np

from napari_medseg.case import Geometry, Label, LabelTable, Provenance, Segmentation, Step


def rotation(angles):
    a, b, c = np.radians(angles)
    rx = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    ry = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    rz = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return rz @ ry @ rx


def affine_of(directions, spacing, origin):
    affine = np.eye(4)
    affine[:3, :3] = np.asarray(directions, float) @ np.diag(spacing)
    affine[:3, 3] = origin
    return affine


SPACING, ORIGIN = (0.8, 1.3, 2.5), (-31.5, 12.25, 78.0)

# columns: where the file's x, y, z axes point, in RAS
AFFINES = {
    "axial": affine_of(np.diag((-1, -1, 1)), SPACING, ORIGIN),
    "sagittal": affine_of([[0, 0, 1], [-1, 0, 0], [0, -1, 0]], SPACING, ORIGIN),
    "coronal": affine_of([[-1, 0, 0], [0, 0, 1], [0, -1, 0]], SPACING, ORIGIN),
    "oblique": affine_of(rotation((17, -23, 41)), SPACING, ORIGIN),
    "flipped": affine_of(np.diag((1, -1, -1)), SPACING, ORIGIN),
    "left-handed": affine_of(np.diag((-1, 1, 1)), SPACING, ORIGIN),
    "left-handed oblique": affine_of(rotation((8, 31, -64)) @ np.diag((1, 1, -1)), SPACING, ORIGIN),
}

TABLE = LabelTable((Label(1, "liver, left", (10, 20, 30)), Label(3, "Läsion \\ 2", (200, 0, 1), ("SCT", "1", "Mass"))))
HISTORY = Provenance("ab" * 32, (Step("segment", "2026-01-02T03:04:05+00:00", {"model": "m 1"}),))


def blob_labels(shape, dtype=np.uint8):
    """Three labels without any symmetry, so that no flip or swap of axes goes unseen."""
    labels = np.zeros(shape, dtype)
    z, y, x = shape[-3:]
    labels[..., : max(1, z // 2), 1:3, 2:5] = 1
    labels[..., z // 2 :, y - 2 :, : x // 2] = 3
    labels[..., -1, 0, x - 1] = 7
    return labels


def segmentation(affine_xyz, shape=(5, 6, 9), **options):
    return Segmentation(
        blob_labels(shape), Geometry.from_xyz_affine(shape[-3:], affine_xyz), TABLE, HISTORY, "my labels", **options
    )


def centroids_ras(labels_zyx, to_world):
    """World centroid of every label; ``to_world`` takes an (x, y, z) index."""
    found = {}
    for value in np.unique(labels_zyx[labels_zyx > 0]):
        z, y, x = (float(np.mean(v)) for v in np.nonzero(labels_zyx == value))
        found[int(value)] = np.asarray(to_world((x, y, z)))
    return found


def sitk_to_ras(image):
    """SimpleITK's own index-to-world function, turned from LPS to RAS."""

    def to_world(xyz):
        point = image.TransformContinuousIndexToPhysicalPoint([float(v) for v in xyz])
        return np.array(point) * (-1, -1, 1)

    return to_world
