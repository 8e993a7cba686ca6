"""On a real GPU: `pytest -m gpu`, the checks that `tests/gpu/run.sh` runs, but for those that take minutes.

Each is a process of its own with a time limit. Skipped, with the reason, where there is no GPU or nothing to check.
"""

import pytest
from gpu import runner
from gpu.check import checks_of

from edgeresnext.machine import gpu

LONG = ("bench", "cycles", "official")

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(gpu.detect() is None, reason="no NVIDIA GPU with a driver")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where bundles are built once, by the first check that needs them."""
    return tmp_path_factory.mktemp("gpu")


@pytest.mark.parametrize(
    ("stage", "one"),
    [
        pytest.param(stage, one, id=f"{stage}-{one.name}", marks=[pytest.mark.slow] if stage in LONG else [])
        for stage in runner.STAGES
        for one in checks_of(stage)
    ],
)
def test_check(stage, one, folder):
    found = runner.run_check(stage, one, folder / "out", folder / "work", limit_s=one.limit_s, seconds=600.0, scale=1.0)
    if found["status"] == "skipped":
        pytest.skip(found["reason"])
    assert found["status"] == "passed", "\n".join([found["reason"], *found.get("output", ())])
