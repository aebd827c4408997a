"""Several candidates on one case: scored against a reference or against each other, ranked, and reported."""

from napari_medseg.evaluate.compare.candidate import Candidate, RunFacts
from napari_medseg.evaluate.compare.comparison import Comparison, compare

__all__ = ["Candidate", "Comparison", "RunFacts", "compare"]
