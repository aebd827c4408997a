"""ONNX Runtime on the processor."""

from __future__ import annotations

import inspect
import tempfile
import warnings
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

SUFFIXES = (".onnx",)

_OPSET = 17


def export(network: torch.nn.Module, example: torch.Tensor) -> dict[str, bytes]:
    """`network` as one ONNX file: its content by its suffix.

    The number of tiles is left open; their shape is that of `example` ``(n, c_in, *tile)``. Needs the packages
    ``onnx`` and ``onnxruntime``.
    """
    # the newer exporter needs a further package, onnxscript; torch before 2.5 has no choice
    tracing: Any = {"dynamo": False} if "dynamo" in inspect.signature(torch.onnx.export).parameters else {}
    with tempfile.TemporaryDirectory(prefix="medseg-") as folder, warnings.catch_warnings():
        # tracing warns of every value it takes as fixed; whether the result is right is checked on real tiles
        warnings.simplefilter("ignore")
        path = Path(folder) / "network.onnx"
        torch.onnx.export(
            network,
            (example,),
            str(path),
            input_names=["tiles"],
            output_names=["maps"],
            dynamic_axes={"tiles": {0: "n"}, "maps": {0: "n"}},
            opset_version=_OPSET,
            **tracing,
        )
        return {".onnx": path.read_bytes()}


class OnnxRunner:
    """Runs an exported network with ONNX Runtime, in fp32.

    Parameters
    ----------
    files
        What `export` gave.
    threads
        Number of threads; as many as torch uses when ``None``.
    """

    backend = "onnx"
    precision = "fp32"

    def __init__(self, files: Mapping[str, bytes], threads: int | None = None) -> None:
        onnxruntime: Any = import_module("onnxruntime")
        onnxruntime.disable_telemetry_events()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        options.inter_op_num_threads = 1
        # threads that wait by spinning would take the cores from blending and reading
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(files[".onnx"], options, providers=["CPUExecutionProvider"])

    def __call__(self, tiles: torch.Tensor) -> torch.Tensor:
        """Maps ``(n, c_out, *tile)`` in float32 of tiles ``(n, c_in, *tile)`` on the processor."""
        values = tiles.detach().contiguous().numpy()
        return torch.from_numpy(self._session.run(["maps"], {"tiles": values})[0])
