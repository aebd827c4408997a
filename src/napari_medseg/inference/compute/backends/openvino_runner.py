"""OpenVINO on the processor. Its usage reports are switched off for this process before it is loaded."""

from __future__ import annotations

import sys
import tempfile
import threading
import warnings
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from napari_medseg.inference.compute.backends.runner import BackendError

SUFFIXES = (".xml", ".bin")

_REPORTS = "openvino_telemetry"
_REPORTING = ("convert_impl", "telemetry_utils", "utils")
_SIZES_KEPT = 4

_loading = threading.Lock()


def load_openvino() -> Any:
    """The ``openvino`` package, unable to report its use to anybody from this process.

    Importing OpenVINO and converting a network send usage data unless the user opted out through a file in
    the home directory. OpenVINO works without the package that sends, through a silent stand-in; here that
    stand-in is what it gets, whether we are the first to import it or not. Nothing is written anywhere.
    """
    with _loading:
        absent = object()
        before: Any = sys.modules.get(_REPORTS, absent)
        sys.modules[_REPORTS] = None  # type: ignore[assignment]
        try:
            openvino = import_module("openvino")
            senders = [import_module(f"openvino.tools.ovc.{name}") for name in _REPORTING]
        finally:
            if before is absent:
                del sys.modules[_REPORTS]
            else:
                sys.modules[_REPORTS] = before
        silent = import_module("openvino.tools.ovc.telemetry_stub")
        for module in senders:
            module.tm = silent  # type: ignore[attr-defined]
        return openvino


def export(network: torch.nn.Module, example: torch.Tensor) -> dict[str, bytes]:
    """`network` as OpenVINO stores it: the content of each file by its suffix.

    The number of tiles is left open; their shape is that of `example` ``(n, c_in, *tile)``.
    """
    openvino = load_openvino()
    with warnings.catch_warnings():
        # tracing warns of every value it takes as fixed; whether the result is right is checked on real tiles
        warnings.simplefilter("ignore")
        converted = openvino.convert_model(network, example_input=example)
    converted.reshape([-1, *example.shape[1:]])
    with tempfile.TemporaryDirectory(prefix="medseg-") as folder:
        path = Path(folder) / "network.xml"
        # half-precision weights, its default, would move labels
        openvino.save_model(converted, path, compress_to_fp16=False)
        return {suffix: path.with_suffix(suffix).read_bytes() for suffix in SUFFIXES}


class OpenVinoRunner:
    """Runs an exported network with OpenVINO.

    A network is compiled once for each number of tiles, which takes a twentieth of a second and made it up to a
    tenth faster than one compiled for any number.

    Parameters
    ----------
    files
        What `export` gave.
    precision
        ``"fp32"`` or ``"bf16"``; a processor without bf16 computes in fp32, and `precision` says so.
    threads
        Number of threads; as many as torch uses when ``None``.

    Raises
    ------
    BackendError
        If the network has several outputs.
    """

    backend = "openvino"

    def __init__(self, files: Mapping[str, bytes], precision: str = "fp32", threads: int | None = None) -> None:
        openvino = load_openvino()
        self._core = openvino.Core()
        can_bf16 = "BF16" in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        self.precision = "bf16" if precision == "bf16" and can_bf16 else "fp32"
        self._network = self._core.read_model(files[".xml"], files[".bin"])
        if len(self._network.outputs) != 1:
            raise BackendError(f"The network has {len(self._network.outputs)} outputs; OpenVINO is used for one only.")
        self._shape = tuple(d.get_length() for d in list(self._network.inputs[0].partial_shape)[1:])
        self._settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if self.precision == "bf16" else "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads or torch.get_num_threads(),
            # pinned threads of two processes would wait for the same core
            "ENABLE_CPU_PINNING": False,
        }
        self._requests: dict[int, Any] = {}

    def __call__(self, tiles: torch.Tensor) -> torch.Tensor:
        """Maps ``(n, c_out, *tile)`` in float32 of tiles ``(n, c_in, *tile)`` on the processor."""
        values = tiles.detach().contiguous().numpy()
        # The tiles are read where they lie; a request must then never be given tiles any other way, since it
        # would write them into the memory of the tiles before. The maps are copied out of the request's own
        # memory, which the next call writes to.
        maps = self._request(len(values)).infer([values], share_inputs=True, share_outputs=False)[0]
        return torch.from_numpy(maps)

    def _request(self, count: int) -> Any:
        if count not in self._requests:
            if len(self._requests) == _SIZES_KEPT:
                del self._requests[next(iter(self._requests))]
            self._network.reshape([count, *self._shape])
            compiled = self._core.compile_model(self._network, "CPU", self._settings)
            self._requests[count] = compiled.create_infer_request()
        return self._requests[count]
