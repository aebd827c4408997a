"""Import torchvision beside a torch that it was not built for: networks that need only its layers then run."""

from __future__ import annotations

import sys
import threading
from importlib import import_module

import torch

from napari_medseg.case import InputError

_SYMPTOM = "operator torchvision::nms does not exist"
_OPERATOR = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_LOCK = threading.Lock()
# torch forgets the operators as soon as their library is collected
_operators: torch.library.Library | None = None


def repair_torchvision() -> str | None:
    """Import torchvision, with its two missing operators declared where exactly their absence stops it.

    torchvision's compiled part loads only beside the torch it was built for; beside another one (a build for CUDA
    beside a torch for the CPU, say) its import ends in "operator torchvision::nms does not exist", and timm,
    segmentation-models-pytorch and the SegFormer of transformers end with it, though none of them uses that
    operator. To be called before any of these is imported; calling it again is free.

    Returns
    -------
    str or None
        What was done and what still does not work, one sentence for a person; ``None`` where torchvision imports
        as it is.

    Raises
    ------
    InputError
        torchvision is not installed, or cannot be imported for another reason.
    """
    global _operators
    with _LOCK:
        try:
            import_module("torchvision")
        except Exception as error:  # whatever a broken build raises is told; only one symptom is repaired
            if not isinstance(error, RuntimeError) or str(error) != _SYMPTOM or _operators is not None:
                raise InputError(_refusal(error)) from error
        else:
            return _done() if _operators is not None else None
        # the modules that were imported before the failure remember that there are no operators
        for name in [m for m in sys.modules if m == "torchvision" or m.startswith("torchvision.")]:
            del sys.modules[name]
        try:
            _operators = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
            for name in ("nms", "qnms"):
                _operators.define(name + _OPERATOR)  # type: ignore[no-untyped-call]
            import_module("torchvision")
        except Exception as error:  # as above
            raise InputError(_refusal(error)) from error
        return _done()


def _done() -> str:
    version = getattr(sys.modules["torchvision"], "__version__", "of unknown version")
    return (
        f"torchvision {version} was built for another torch than {torch.__version__}; its missing operators were "
        "declared so that networks can be built, only its box selection (torchvision.ops.nms) does not work."
    )


def _refusal(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name == "torchvision":
        return 'torchvision is not installed: pip install "napari-medseg[zoo]".'
    return f"torchvision cannot be imported beside torch {torch.__version__}: {' '.join(str(error).split())}"
