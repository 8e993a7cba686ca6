"""The child process in which engines are built: what it is told, what it tells, and how it may end."""

import errno
import os

import msgspec
import psutil
import pytest
from standins.engines import BATCH, compiled, engines, run_in_this_process

import edgeresnext
from edgeresnext import bundle as bundles
from edgeresnext.backends.request import EngineRequest
from edgeresnext.errors import BackendError
from edgeresnext.progress import silent


@pytest.mark.parametrize(("module", "release"), [("tensorrt", "10.3"), ("tensorrt_rtx", "1.7")])
def test_a_child_builds_what_this_process_would_and_tells_how_far_it_is(install, lean, module, release):
    install(module, release, child=True)
    told = []
    edgeresnext.build_engines(lean, precisions=["fp32"], engine_options=BATCH, progress=lambda *step: told.append(step))
    (engine,) = engines(bundles.read(lean)).values()
    percents = [done for stage, done, _ in told if stage == f"engine {engine.name}"]
    assert percents == sorted(percents)
    assert len(set(percents)) > 3
    assert percents[-1] == 100
    plan = (lean / engine.file).read_bytes()
    install(module, release)
    here = engines(compiled(lean, backend=module))["fp32"]
    assert (lean / here.file).read_bytes() == plan
    assert msgspec.structs.replace(here.engine, built_s=engine.engine.built_s) == engine.engine


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        ("fail", "could not build the engine: .*failure asked for by the test"),
        ("kill", "was killed, most likely because memory ran out"),
        ("abort", r"crashed with signal SIGABRT: .*native code gave up"),
        ("exit", r"crashed with exit code 7"),
    ],
)
def test_a_child_that_ends_early_is_an_error_and_the_bundle_is_as_it_was(install, lean, failure, message):
    install(child=True, failures={"build_serialized_network": failure})
    before = (lean / bundles.MANIFEST).read_bytes()
    with pytest.raises(BackendError, match=message) as caught:
        edgeresnext.build_engines(lean, precisions=["fp16"], engine_options=BATCH)
    assert caught.value.hint
    assert (lean / bundles.MANIFEST).read_bytes() == before
    assert not (lean / "engines").exists()


def test_what_the_system_refuses_the_child_becomes_an_error(install, built, tmp_path):
    install()
    request = EngineRequest(
        name="sm89-fp32",
        backend="tensorrt",
        file=tmp_path / "no folder" / "x.engine",
        precision="fp32",
        compute_capabilities=(),
        onnx=built.path / "onnx" / "fp32.onnx",
        options=BATCH,
        layer_macs={},
    )
    with pytest.raises(BackendError, match="sm89-fp32: tensorrt failed: FileNotFoundError"):
        run_in_this_process(request, silent)


def test_a_child_that_cannot_be_started_is_an_error_and_leaves_nothing_open(install, lean, monkeypatch):
    def refused(*_arguments, **_options):
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    install(child=True)
    monkeypatch.setattr("edgeresnext.backends._trt.parent.subprocess.Popen", refused)
    handles = []
    for _ in range(3):
        with pytest.raises(BackendError, match="no process can be started for the build: Resource temporarily"):
            edgeresnext.build_engines(lean, precisions=["fp16"], engine_options=BATCH)
        handles.append(psutil.Process().num_fds())
    assert handles[1] == handles[2]
