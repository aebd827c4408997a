"""Shared by all tests: bounded threads, and the real data where it is at hand."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# two busy worker processes with two spinning threads each are far slower than one thread each
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# shared machines stall at random; a test is judged by what it computes, not how fast
settings.register_profile("medseg", deadline=None, max_examples=60)
settings.load_profile("medseg")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Exported networks and measurements of tests stay out of the cache of the person who runs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDSEG_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real labelled images beside the project; tests that need them are skipped elsewhere."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the labelled images are not beside this checkout (../shared/data)")
    return folder
