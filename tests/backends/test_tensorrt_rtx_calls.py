"""Single calls of TensorRT-RTX for real, without a GPU: what the stand-ins say that it does."""

import subprocess
import sys

import msgspec
import pytest

from edgeresnext.backends import registry
from edgeresnext.backends._trt.parent import run_in_child
from edgeresnext.backends.request import EngineRequest
from edgeresnext.bundle.float_weights import with_float_weights
from edgeresnext.errors import BackendError
from edgeresnext.machine import gpu
from edgeresnext.progress import silent
from edgeresnext.spec import EngineOptions

MISSING = registry.get_engine_backend("tensorrt_rtx").missing()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))

MASK_AT = 32
MASKS = {("7.5",): 0x01, ("8.0",): 0x02, ("8.6",): 0x04, ("8.9",): 0x08, ("12.0",): 0x10, ("12.1",): 0x20}
MASKS[("8.6", "8.9", "12.0")] = 0x1C
"""Which GPUs a plan of 1.7 was built for, as its header says; 0 where none was named."""


@pytest.fixture
def asked(built, tmp_path):
    """What to build the INT8 engine of the digits network from."""
    return EngineRequest(
        name="test",
        backend="tensorrt_rtx",
        file=tmp_path / "x.engine",
        precision="int8",
        compute_capabilities=("8.9",),
        onnx=built.path / "onnx" / "int8.onnx",
        options=EngineOptions(),
        layer_macs=built.manifest.layer_macs,
    )


def test_nvidias_parser_reads_float_weights_as_the_same_network(asked, tmp_path):
    floating = tmp_path / "floating.onnx"
    floating.write_bytes(with_float_weights(asked.onnx.read_bytes()))
    quantised, rewritten = (
        run_in_child(msgspec.structs.replace(asked, onnx=onnx), silent).layers for onnx in (asked.onnx, floating)
    )
    for one, other in zip(quantised, rewritten, strict=True):
        assert (one.kind, one.types, one.macs) == (other.kind, other.types, other.macs)


@pytest.mark.parametrize(
    "capabilities",
    [pytest.param(one, marks=[] if one[0] in ("7.5", "8.6") else pytest.mark.slow, id="+".join(one)) for one in MASKS],
)
def test_a_plan_is_for_the_gpus_that_were_named(asked, capabilities, built):
    run_in_child(
        msgspec.structs.replace(
            asked, compute_capabilities=capabilities, precision="fp16", onnx=built.path / "onnx" / "fp16.onnx"
        ),
        silent,
    )
    assert asked.file.read_bytes()[MASK_AT] == MASKS[capabilities]


@pytest.mark.skipif(gpu.detect() is not None, reason="there is a GPU, whose engine tests/gpu runs")
def test_the_gpu_that_is_here_can_be_named_and_its_absence_is_an_error(asked):
    with pytest.raises(BackendError, match=r"could not build the engine: .*cudaError"):
        run_in_child(msgspec.structs.replace(asked, compute_capabilities=()), silent)


def test_what_the_runtime_says_comes_by_the_recorder_and_everything_is_let_go_in_order(tmp_path):
    """In a process of its own: an object that goes too early is a crash."""
    script = (
        "import tensorrt_rtx as trt\n"
        "from edgeresnext.backends._trt.module import make_runtime\n"
        "heard = []\n"
        "runtime, kept = make_runtime(trt, lambda *said: heard.append(said))\n"
        "assert runtime.deserialize_cuda_engine(b'no plan at all' * 9) is None\n"
        "del runtime, kept\n"
        "print(*{severity for severity, _ in heard}, any('magicTag' in text for _, text in heard))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "ERROR True\n"), done.stderr
