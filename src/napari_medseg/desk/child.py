"""Segment in a process of its own, so that neither the window nor its memory feels the work.

Computing on a thread keeps the window smooth while tiles run, but loading torch and MONAI holds it still for
half a second each (``benchmarks/window_gap.py`` measures both), and a model that runs out of memory takes the
session with it.

The child is started by ``python -m napari_medseg.desk.child`` rather than by `multiprocessing`, which would
run the user's script a second time. It asks this process for the pixels it needs, so that an image that only
exists in the viewer is segmented like one that lies in a file. Nothing here imports Qt or napari.
"""

from __future__ import annotations

import atexit
import os
import secrets
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_medseg.case import CancelledError, MedicalImage, MedsegError, Segmentation
from napari_medseg.desk.pixels import Outline, Pixels, start_serving
from napari_medseg.jobs import Progress

if TYPE_CHECKING:
    from napari_medseg.bundles.model import Model

_KEY = "NAPARI_MEDSEG_CHILD_KEY"
_STARTUP_SECONDS = 120.0
_POLL_SECONDS = 0.05
_GRACE_SECONDS = 15.0


@dataclass(frozen=True)
class Run:
    """One thing to compute: a model (loaded, or its id or folder) and the fields of ``SegmentOptions``.

    With `resume` an unfinished store of that name is gone on with.
    """

    model: Model | str | Path
    options: Mapping[str, Any]
    out: Path
    name: str
    resume: bool = False


@dataclass(frozen=True)
class RunResult:
    """The labels, and how the run went (the keys of ``SegmentReport.to_dict``)."""

    segmentation: Segmentation
    report: Mapping[str, Any]


@dataclass(frozen=True)
class DeviceChoices:
    """Devices that can be chosen here, and one sentence on why a GPU is or is not used."""

    names: tuple[str, ...]
    reason: str


class Worker:
    """A child process that does one thing after another and keeps its libraries loaded in between.

    Calls from several threads wait for each other.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._events: Connection | None = None
        self._pixels: Connection | None = None
        self._lock = threading.Lock()
        self._retired = False

    def segment(self, image: MedicalImage, run: Run, *, progress: Progress) -> RunResult:
        """The same as `napari_medseg.inference.segment`, in the child. Blocks: call it in a job.

        Raises
        ------
        MedsegError
            As raised in the child; or if the child ended without an answer, for instance for want of memory.
        """
        from napari_medseg.io.ome_zarr import read_segmentation

        outline = replace(image, levels=tuple(Outline.of(level) for level in image.levels))
        report = self._ask(("segment", outline, run), progress, image)
        return RunResult(read_segmentation(run.out / "labels" / run.name), report)

    def devices(self, *, progress: Progress) -> DeviceChoices:
        """Which devices can be chosen. Blocks while the child loads torch: call it in a job."""
        return self._ask(("devices",), progress, None)

    def add_model(self, folder: str, *, progress: Progress) -> str:
        """Put a bundle or a results folder of nnU-Net among the user's models; its id. Blocks: call it in a job."""
        return str(self._ask(("add", folder), progress, None))

    @property
    def pid(self) -> int | None:
        """The child's process id while it lives."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def close(self) -> None:
        """End the child, whatever it is doing."""
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.kill()
            process.wait()
        for connection in (self._events, self._pixels):
            # the thread that waits for the answer may be closing them too
            with suppress(OSError):
                if connection is not None:
                    connection.close()

    def retire(self) -> None:
        """Close for good: calls that still wait are cancelled instead of starting another child."""
        self._retired = True
        self.close()

    def _ask(self, request: tuple[Any, ...], progress: Progress, image: MedicalImage | None) -> Any:
        with self._lock:
            progress.check()
            if self._retired:
                raise CancelledError("Cancelled.")
            self._start(progress)
            assert self._events is not None and self._pixels is not None
            try:
                self._events.send(request)
                if image is None:
                    return self._answer(progress)
                return self._answer(progress, start_serving(self._pixels, image))
            except (EOFError, OSError) as error:
                process = self._process
                code = process.wait() if process is not None else None
                self.close()
                # without a process somebody closed this worker: the program is ending
                if progress.cancelled or process is None:
                    raise CancelledError("Cancelled.") from error
                raise MedsegError(
                    f"The process that computes labels ended without an answer (exit status {code}), most often "
                    f"for want of memory: close other programs or choose a smaller region, and run again."
                ) from error

    def _start(self, progress: Progress) -> None:
        if self.pid is not None:
            return
        progress.begin(1, "starting")
        key = secrets.token_hex(32)
        with tempfile.TemporaryDirectory(prefix="medseg-") as folder:
            posix = os.name == "posix"
            address = str(Path(folder) / "s") if posix else None
            with Listener(address, family="AF_UNIX" if posix else "AF_PIPE", authkey=key.encode()) as listener:
                process = subprocess.Popen(
                    [sys.executable, "-m", "napari_medseg.desk.child", str(listener.address)],
                    # waiting threads must not burn the core that draws the window
                    env={"OMP_WAIT_POLICY": "PASSIVE", **os.environ, _KEY: key},
                    stdin=subprocess.DEVNULL,
                )
                self._events = _accept(listener, process, progress)
                self._pixels = _accept(listener, process, progress)
                self._process = process

    def _answer(self, progress: Progress, server: threading.Thread | None = None) -> Any:
        """Follow the child until its answer; pass on the wish to stop.

        The server of this image's pixels has ended before the answer is handed on: it would answer the next
        run's requests with this image.
        """
        assert self._events is not None
        asked = False
        phase = ("", 0)
        done = 0
        while True:
            if progress.cancelled and not asked:
                asked = True
                self._events.send("cancel")
            if not self._events.poll(_GRACE_SECONDS if asked else _POLL_SECONDS):
                if asked:
                    self.close()
                    raise CancelledError("Cancelled.")
                continue
            kind, content = self._events.recv()
            if kind == "progress":
                if (content.word, content.total) != phase or content.done < done:
                    progress.begin(content.total, content.word)
                    phase, done = (content.word, content.total), 0
                with suppress(CancelledError):
                    progress.advance(content.done - done)
                done = content.done
                continue
            self._events.send("answered")
            if server is not None:
                server.join()
            if kind == "error":
                raise content
            return content


@cache
def shared_worker() -> Worker:
    """The one worker of this program; it ends with the program."""
    worker = Worker()
    atexit.register(worker.retire)
    return worker


def _accept(listener: Listener, process: subprocess.Popen[bytes], progress: Progress) -> Connection:
    """The child's next connection, or the reason why there is none."""
    found: list[Any] = []

    def wait() -> None:
        with suppress(OSError, EOFError):
            found.append(listener.accept())

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    for _ in range(int(_STARTUP_SECONDS / _POLL_SECONDS)):
        thread.join(_POLL_SECONDS)
        if found:
            return found[0]
        if process.poll() is not None or progress.cancelled:
            break
    process.kill()
    process.wait()
    progress.check()
    raise MedsegError("The process that computes labels could not be started; run `napari-medseg doctor` to see why.")


# -- inside the child --------------------------------------------------------------------------------


def _segment(image: MedicalImage, run: Run, pixels: Pixels, progress: Progress) -> Mapping[str, Any]:
    progress.begin(1, "loading the model")
    from napari_medseg.bundles.model import Model
    from napari_medseg.inference import SegmentOptions, segment
    from napari_medseg.inference.compute.allocator import share_freed_memory

    share_freed_memory()
    model = run.model
    if not isinstance(model, Model):
        from napari_medseg.bundles import load_model

        model = load_model(model)
    for level, outline in enumerate(image.levels):
        outline.pixels, outline.level = pixels, level
    result = segment(
        image,
        model,
        run.out,
        SegmentOptions(**run.options),
        progress=progress,
        name=run.name,
        overwrite=True,
        resume=run.resume,
    )
    return result.report.to_dict()


def _answer_to(kind: str, arguments: list[Any], pixels: Pixels, progress: Progress) -> Any:
    if kind == "devices":
        return _devices()
    if kind == "add":
        from napari_medseg.bundles.add import add_model

        progress.begin(1, "reading the model")
        return add_model(arguments[0]).card.id
    image, run = arguments
    return _segment(image, run, pixels, progress)


def _devices() -> DeviceChoices:
    import torch

    from napari_medseg.inference.compute.devices import gpu_status

    names = [f"cuda:{k}" for k in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    if torch.backends.mps.is_available():
        names.append("mps")
    return DeviceChoices((*names, "cpu"), gpu_status())


def _plain(error: Exception) -> MedsegError:
    """An error of ours as it is; any other as one sentence, with its traceback on standard error."""
    if isinstance(error, MedsegError):
        return error
    import traceback

    traceback.print_exception(error)
    first = (str(error).splitlines() or ["no message"])[0]
    return MedsegError(f"The model stopped with an unexpected error ({type(error).__name__}: {first}).")


def _follow(events: Connection, progress: Progress) -> threading.Thread:
    """Listen, while one request is worked on, for the wish to stop; ends when the parent has the answer."""

    def listen() -> None:
        try:
            while (word := events.recv()) != "answered":
                if word == "cancel":
                    progress.cancel()
        except (EOFError, OSError):
            # the window is gone: what is half written is thrown away by the writer
            progress.cancel()

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    return thread


def main(address: str) -> None:
    """Answer requests until the parent goes away."""
    key = os.environ.pop(_KEY).encode()
    with Client(address, authkey=key) as events, Client(address, authkey=key) as pixel_connection:
        if hasattr(os, "nice"):
            os.nice(5)
        pixels = Pixels(pixel_connection)
        with suppress(EOFError, OSError):
            while True:
                kind, *arguments = events.recv()
                progress = Progress(lambda status: events.send(("progress", status)))
                follower = _follow(events, progress)
                answer: tuple[str, Any]
                try:
                    answer = "result", _answer_to(kind, arguments, pixels, progress)
                except Exception as error:  # noqa: BLE001 - every failure belongs to the parent, who shows it
                    answer = "error", _plain(error)
                if kind == "segment":
                    pixels.end()
                events.send(answer)
                follower.join()


if __name__ == "__main__":
    # classes must carry the module's own name, not __main__, to be understood on both sides
    from napari_medseg.desk import child

    child.main(sys.argv[1])
