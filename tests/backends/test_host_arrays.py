"""Arrays of other libraries on the host: read where they lie, PyTorch's for real."""

import gc
import weakref

import numpy as np
import pytest
import torch

import edgeresnext
from edgeresnext.backends import dlpack, registry
from edgeresnext.errors import DataError, RequestError
from edgeresnext.runtime.classifier import open_artifact

VARIANTS = ["openvino-fp32", "openvino-int8", "onnxruntime-fp32", "onnxruntime-int8", "torch-fp32"]


@pytest.fixture(scope="module", params=VARIANTS)
def session(request, built):
    artifact = next(one for one in built.manifest.artifacts if one.name == request.param)
    reason = registry.unavailable(artifact)
    if reason is not None:
        pytest.skip(reason)
    session = open_artifact(built, artifact)
    yield session
    session.close()


@pytest.fixture
def images(built):
    return torch.from_numpy(built.golden().images[:3].copy())


class Capsules:
    """What lends an array's capsule and nothing else."""

    def __init__(self, tensor):
        self.tensor = tensor

    def __dlpack__(self, **exchange):
        return self.tensor.__dlpack__(**exchange)

    def __dlpack_device__(self):
        return self.tensor.__dlpack_device__()


@pytest.mark.parametrize(
    "kind", [lambda one: one, Capsules, lambda one: one.__dlpack__()], ids=["tensor", "object", "capsule"]
)
def test_a_backend_sees_the_tensor_s_own_memory(session, images, kind, monkeypatch):
    seen = []
    run = session._run
    monkeypatch.setattr(session, "_run", lambda given: seen.append(given.ctypes.data) or run(given))
    found = session.run(kind(images))
    assert seen == [images.data_ptr()]
    assert isinstance(found, np.ndarray)
    assert np.array_equal(found, session.run(images.numpy()))


def test_numpy_s_arrays_are_taken_as_before(session, images):
    array = images.numpy()
    mirrored = array[:, :, ::-1]
    assert np.array_equal(session.run(mirrored), session.run(np.ascontiguousarray(mirrored)))


@pytest.mark.parametrize("kind", ["torch", "numpy", "capsule"])
def test_logits_go_into_the_array_that_is_given(session, images, kind):
    expected = session.run(images)
    memory = torch.full((3, 10), 7.0)
    out = {"torch": memory, "numpy": memory.numpy(), "capsule": memory.__dlpack__()}[kind]
    assert session.run(images, out) is out
    assert np.array_equal(memory.numpy(), expected)


def test_an_empty_tensor_gives_no_logits(session):
    assert session.run(torch.zeros((0, 32, 32, 3), dtype=torch.uint8)).shape == (0, 10)


@pytest.mark.parametrize(
    ("given", "message", "hint"),
    [
        (lambda: torch.zeros((1, 32, 32, 3)), r"got float32 \(1, 32, 32, 3\)", "0..255"),
        (lambda: torch.zeros((1, 3, 32, 32), dtype=torch.uint8), r"got uint8 \(1, 3, 32, 32\)", "x.permute(0, 2, 3, 1)"),
        (lambda: torch.zeros((1, 3, 32, 32), dtype=torch.uint8).permute(0, 2, 3, 1), "another order", ".contiguous()"),
        (lambda: torch.zeros((4, 32, 32, 3), dtype=torch.uint8)[::2], "a view with gaps", ".contiguous()"),
        (torch.zeros((4, 32, 32, 3), dtype=torch.uint8)[::2].__dlpack__, "a view with gaps", ".contiguous()"),
        (lambda: torch.zeros((1, 32, 32, 3), dtype=torch.uint8, device="meta"), "cannot read the Tensor", "NumPy"),
        (lambda: torch.zeros((1, 32, 32, 3), requires_grad=True), "requires? grad", "NumPy"),
        (lambda: torch.zeros((1, 32, 32, 3), dtype=torch.bfloat16), "cannot read the Tensor", "NumPy"),
        (torch.zeros((1, 32, 32, 3), dtype=torch.bfloat16).__dlpack__, "got bfloat16", "0..255"),
        (lambda: "images", "got str", "0..255"),
        (lambda: None, "got NoneType", "0..255"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_what_to_do(session, given, message, hint):
    with pytest.raises(DataError, match=message) as caught:
        session.run(given())
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (torch.zeros((3, 9)), r"out must be float32 \(3, 10\), and is float32 \(3, 9\)"),
        (torch.zeros((3, 10), dtype=torch.float64), "and is float64"),
        (np.zeros((3, 10)), "and is float64"),
        (torch.zeros((10, 3)).T, "a view with gaps or another order"),
        ([0.0], "cannot read the list"),
    ],
)
def test_an_out_that_does_not_fit_is_refused(session, images, out, message):
    with pytest.raises(DataError, match=message):
        session.run(images, out)


def test_an_out_that_is_read_only_is_refused(session, images):
    out = np.zeros((3, 10), np.float32)
    out.flags.writeable = False
    with pytest.raises(DataError, match="read-only"):
        session.run(images, out)


class Immutable:
    """An array as those of JAX: read-only by DLPack 1, and by earlier releases, which cannot say that, as any other."""

    def __init__(self, values):
        self.values = values

    def __dlpack__(self, *, max_version=None, **_exchange):
        frozen = self.values.view()
        frozen.flags.writeable = False
        return frozen.__dlpack__(max_version=max_version) if max_version else self.values.__dlpack__()

    def __dlpack_device__(self):
        return self.values.__dlpack_device__()


@pytest.mark.skipif(np.lib.NumpyVersion(np.__version__) < "2.1.0", reason="NumPy says so since 2.1")
def test_an_out_whose_library_calls_it_read_only_is_not_written_to(session, images):
    values = np.zeros((3, 10), np.float32)
    with pytest.raises(DataError, match="out is read-only"):
        session.run(images, Immutable(values))
    assert not values.any()


def test_images_that_are_read_only_are_read(session, images):
    frozen = images.numpy().copy()
    frozen.flags.writeable = False
    assert np.array_equal(session.run(frozen), session.run(images))


def test_a_strided_numpy_out_is_filled(session, images):
    out = np.zeros((3, 20), np.float32)[:, ::2]
    session.run(images, out)
    assert np.array_equal(out, session.run(images))


class OnGpu:
    def __dlpack_device__(self):
        return 2, 0

    def __dlpack__(self, **_):
        return dlpack.lend(4096, (1, 32, 32, 3), (dlpack.CUDA, 0), None)


class Interface:
    __cuda_array_interface__ = {"shape": (1, 32, 32, 3), "typestr": "|u1", "data": (4096, False), "version": 3}  # noqa: RUF012


@pytest.mark.parametrize("array", [OnGpu(), Interface()], ids=["dlpack", "interface"])
def test_a_cpu_takes_nothing_that_lies_on_a_gpu(session, images, array):
    with pytest.raises(DataError, match="is on a GPU, where neither") as caught:
        session.run(array)
    assert "x.cpu()" in caught.value.hint
    with pytest.raises(DataError, match="is on a GPU, where neither"):
        session.run(images, array)


def test_a_stream_is_for_images_on_a_gpu(session, images):
    with pytest.raises(RequestError, match="the images are on the host"):
        session.run(images, stream=0)


def test_a_capsule_is_read_once(session, images):
    given = images.__dlpack__()
    session.run(given)
    with pytest.raises(DataError, match="used already"):
        session.run(given)


def test_a_tensor_is_let_go_after_the_run(session):
    images = torch.zeros((1, 32, 32, 3), dtype=torch.uint8)
    gone = weakref.ref(images.untyped_storage())
    given = images.__dlpack__()
    session.run(given)
    session.run(torch.zeros((1, 32, 32, 3), dtype=torch.uint8))  # OpenVINO keeps the input of its last run
    del images, given
    gc.collect()
    assert gone() is None


def test_a_classifier_takes_them_too(built, images):
    with edgeresnext.load(built.path) as classifier:
        out = torch.zeros((3, 10))
        assert classifier.logits(images, out=out) is out
        assert np.array_equal(out.numpy(), classifier.logits(images.numpy()))
        tensor = torch.from_dlpack(classifier.logits(images))
        assert torch.equal(tensor, out)


@pytest.mark.parametrize("take", [torch.from_dlpack, np.from_dlpack], ids=["torch", "numpy"])
def test_what_is_lent_is_kept_until_the_taker_is_done(take):
    class Lender:
        def __init__(self, values):
            self.values = values

        def __dlpack__(self, **_):
            return dlpack.lend(self.values.ctypes.data, self.values.shape, (dlpack.CPU, 0), self.values)

        def __dlpack_device__(self):
            return dlpack.CPU, 0

    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    kept = weakref.ref(values)
    taken = take(Lender(values))
    del values
    gc.collect()
    assert kept() is not None
    assert taken.tolist() == [[0, 1, 2], [3, 4, 5]]
    del taken
    gc.collect()
    assert kept() is None


def test_a_capsule_that_nobody_takes_keeps_nothing():
    values = np.zeros(4, np.float32)
    kept = weakref.ref(values)
    given = dlpack.lend(values.ctypes.data, (4,), (dlpack.CUDA, 3), values)
    del values
    assert kept() is not None
    assert dlpack.peek(given) == dlpack.CUDA
    del given
    assert kept() is None


def test_a_taker_s_own_error_survives_the_capsule_that_it_refuses():
    with pytest.raises((BufferError, RuntimeError), match="device"):
        np.from_dlpack(OnGpu())


@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (4, 1, 2), (0, 3)])
def test_shapes_and_strides_are_pytorch_s(shape):
    tensor = torch.zeros(shape, dtype=torch.uint8)
    lent = dlpack.Lent(tensor.__dlpack__())
    assert (lent.shape, lent.dtype, lent.device) == (shape, "uint8", (1, 0))
    if tensor.numel():
        assert lent.address == tensor.data_ptr()
        assert dlpack.compact(shape) == torch.empty(shape).stride()
    view = torch.zeros((8, 6), dtype=torch.int16)[2:, ::2]
    lent = dlpack.Lent(view.__dlpack__())
    assert (lent.address, lent.strides, lent.dtype) == (view.data_ptr(), view.stride(), "int16")
