"""How the C library keeps freed memory: the one setting on which the flat memory of long runs depends."""

from __future__ import annotations

import ctypes
import os
import sys

_M_ARENA_MAX = -8
_ARENAS = 2


def share_freed_memory() -> bool:
    """Let all threads of this process take memory from few pools, so that what one frees another can use.

    The GNU C library gives threads pools of their own, up to eight a core. The engine's readers allocate what its
    deciding and writing threads free, and the pools grow for as long as the run lasts: 0.3 GiB more at 32,768 pixels
    a side than with two pools, which cost no time (``benchmarks/engine_scaling.py``). For processes that only run the
    engine: the command line, the window's child process, a cluster's worker. ``MALLOC_ARENA_MAX`` set by the user
    is left as it is.

    Returns
    -------
    bool
        Whether it was done; other systems and C libraries have other allocators and need nothing.
    """
    if not sys.platform.startswith("linux") or "MALLOC_ARENA_MAX" in os.environ:
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_M_ARENA_MAX, _ARENAS))
