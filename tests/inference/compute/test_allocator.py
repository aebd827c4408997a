"""The pools that the C library gives to threads."""

import subprocess
import sys

import pytest

_LOAD = """
import re, threading
import numpy as np
from napari_medseg.inference.compute.allocator import share_freed_memory
done = share_freed_memory()
everyone = threading.Barrier(16)
def work():
    everyone.wait()
    held = [np.ones(2000) for _ in range(200)]
    everyone.wait()
threads = [threading.Thread(target=work) for _ in range(16)]
for t in threads: t.start()
for t in threads: t.join()
import ctypes, os, tempfile
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
with tempfile.NamedTemporaryFile() as file:
    stream = ctypes.c_void_p(libc.fopen(file.name.encode(), b"w"))
    libc.malloc_info(0, stream); libc.fclose(stream)
    pools = len(re.findall(r"<heap nr=", open(file.name).read()))
print(done, pools)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of the GNU C library")
def test_threads_share_two_pools_unless_the_user_says_otherwise() -> None:
    def pools(**environment: str) -> list[str]:
        import os

        clean = {k: v for k, v in os.environ.items() if k != "MALLOC_ARENA_MAX"}
        run = subprocess.run(
            [sys.executable, "-c", _LOAD], env=clean | environment, capture_output=True, text=True, check=True
        )
        return run.stdout.split()

    assert pools() == ["True", "2"]
    done, number = pools(MALLOC_ARENA_MAX="5")
    assert done == "False"
    assert int(number) == 5
