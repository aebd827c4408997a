"""A store that is being made: where it waits, who may write to it, what stays of it when the run ends early."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import TracebackType
from typing import Any

from napari_medseg.case import InputError
from napari_medseg.inference.work import scratch
from napari_medseg.io.ome_zarr import Ngff, open_root
from napari_medseg.io.ome_zarr.labels import refuse_foreign_image
from napari_medseg.io.writing import partial_path, publish, refuse_existing, require_folder

GO_ON = "What was finished is kept: run the same again with --resume to go on."


class UnfinishedStore:
    """The store of a run until it gets its name.

    It lies beside that name (``labels.partial.zarr``), is valid OME-Zarr at any time, and is removed on the way out
    only if nothing in it is worth going on with. One process at a time may write to it.

    Parameters
    ----------
    path
        The name the store will get.
    ngff
        OME-Zarr version.
    overwrite
        Whether a store at `path`, or an unfinished one, may be replaced.
    resume
        Whether to go on with an unfinished store, if there is one.

    Raises
    ------
    InputError
        If something is in the way, or another process writes to the store.
    """

    def __init__(self, path: Path, ngff: Ngff, *, overwrite: bool, resume: bool) -> None:
        if overwrite and path.is_dir():
            refuse_foreign_image(path)
        refuse_existing(path, overwrite=overwrite)
        require_folder(path)
        self.path, self.folder = path, partial_path(path)
        self._overwrite = overwrite
        self.resumed = resume and self.folder.is_dir()
        self.worth_keeping = self.resumed
        if self.folder.exists() and not self.resumed:
            self._make_way()
        self._lock = self._locked()
        try:
            self.root: Any = open_root(self.folder, ngff, resume=self.resumed)
            scratch(self.folder).mkdir(exist_ok=True)
        except PermissionError as error:
            self._unlock()
            raise InputError(f"{path.name}: no permission to write here; choose another folder.") from error

    def _make_way(self) -> None:
        if not scratch(self.folder).is_dir():
            raise InputError(f"{self.folder.name}: is in the way and was not made by napari-medseg; move it elsewhere.")
        if not self._overwrite:
            raise InputError(
                f"{self.folder.name}: an unfinished run lies here; go on with --resume, or start anew with --overwrite."
            )
        lock = self._locked()
        shutil.rmtree(self.folder)
        self._unlock(lock)

    def _locked(self) -> Any:
        from filelock import FileLock, Timeout

        lock = FileLock(self.path.with_name(f".{self.path.name}.lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise InputError(
                f"{self.path.name}: another run is writing it; wait for it, or choose another name."
            ) from error
        except PermissionError as error:
            raise InputError(f"{self.path.name}: no permission to write here; choose another folder.") from error
        return lock

    def _unlock(self, lock: Any = None) -> None:
        lock = lock or self._lock
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)

    def ledger_path(self, name: str) -> Path:
        """Where the ledger of the labels `name` lies."""
        return scratch(self.folder) / f"{name}.ledger"

    def forget(self, name: str) -> None:
        """Remove labels and maps that a run began and of which it kept no ledger."""
        for folder in (self.folder / "labels" / name, self.folder / "maps" / name):
            if folder.is_dir():
                shutil.rmtree(folder)

    def publish(self) -> None:
        """Give the store its name."""
        shutil.rmtree(scratch(self.folder))
        publish(self.folder, self.path, overwrite=self._overwrite)

    def __enter__(self) -> UnfinishedStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.folder.exists() and not self.worth_keeping:
            shutil.rmtree(self.folder, ignore_errors=True)
        elif error is not None and self.folder.exists():
            error.add_note(GO_ON)
        self._unlock()
