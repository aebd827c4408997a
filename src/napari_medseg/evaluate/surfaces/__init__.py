"""How far two boundaries lie apart: Hausdorff distances, mean surface distance, surface Dice."""

from napari_medseg.evaluate.surfaces.scores import METRICS, Elements, boundary_scores

__all__ = ["METRICS", "Elements", "boundary_scores"]
