"""Which GPU is used: asked of the stand-in for the driver's library."""

import sys

import pytest
from standins import gpu as simulated
from standins import install_driver, pynvml_standin

from edgeresnext.backends import cuda
from edgeresnext.backends.cuda import CudaPython, Driver
from edgeresnext.cli import doctor
from edgeresnext.errors import BackendError, NotInstalledError, RequestError
from edgeresnext.machine import gpu, libcuda, nvml
from edgeresnext.machine.libcuda import CudaError

SECOND = {"name": "Second", "compute_capability": [12, 0]}


@pytest.fixture
def machine(monkeypatch):
    """Let the driver tell of a simulated machine."""

    def install(**settings):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # so that what the code sets is undone too
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
        monkeypatch.delenv("STANDIN_GPU", raising=False)
        install_driver(monkeypatch)
        simulated.reset(**settings)

    return install


def test_every_gpu_is_told_with_what_the_driver_knows_of_it(machine):
    machine(others=[SECOND], integrated=1, memory_bytes=1 << 34)
    first, second = gpu.devices()
    assert first == gpu.Gpu(
        name="NVIDIA Stand-in", compute_capability="8.9", memory_bytes=1 << 34, driver="12.8", integrated=True,
        multiprocessors=128, index=0, uuid=f"GPU-{simulated.uuid(0)}",
    )  # fmt: skip
    assert (second.name, second.compute_capability, second.index) == ("Second", "12.0", 1)
    assert gpu.detect() == first


def test_without_driver_or_gpu_there_is_none(machine, monkeypatch):
    machine(count=0)
    assert gpu.devices() == ()
    monkeypatch.setattr("ctypes.CDLL", lambda *_: (_ for _ in ()).throw(OSError("libcuda.so.1: no such file")))
    assert gpu.detect() is None
    with pytest.raises(NotInstalledError, match="no NVIDIA driver: libcuda"):
        libcuda.load()


def test_a_gpu_is_chosen_by_index_or_uuid_for_a_block(machine):
    machine(others=[SECOND])
    for device in (1, "1", f"GPU-{simulated.uuid(1)}", f"gpu-{str(simulated.uuid(1))[:8]}"):
        with gpu.using(device):
            assert gpu.detect().name == "Second"
            assert gpu.environment()["CUDA_VISIBLE_DEVICES"] == f"GPU-{simulated.uuid(1)}"
            with gpu.using(None):
                assert gpu.detect().name == "Second"
        assert gpu.detect().index == 0
        assert "CUDA_VISIBLE_DEVICES" not in gpu.environment()


@pytest.mark.parametrize("device", [2, -1, "GPU-0000", "", "first", 1.0])
def test_an_unknown_gpu_is_refused_with_those_that_there_are(machine, device):
    machine(others=[SECOND])
    with pytest.raises(RequestError, match="no GPU") as caught, gpu.using(device):
        pass
    assert f"1: Second (GPU-{simulated.uuid(1)})" in caught.value.hint
    assert caught.value.values == ("device",)


def test_a_beginning_that_several_have_is_refused(machine):
    machine(others=[SECOND])
    with pytest.raises(RequestError, match="several GPUs begin with 'GPU-'"):
        gpu.find("GPU-")


def test_what_hides_a_gpu_is_named(machine, monkeypatch):
    machine()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(RequestError) as caught:
        gpu.find(1)
    assert "CUDA_VISIBLE_DEVICES is '0', which hides others" in caught.value.hint


def test_where_cuda_offers_nothing_mig_is_explained(machine):
    machine(count=0)
    with pytest.raises(NotInstalledError, match="no GPU '1': CUDA offers none") as caught:
        gpu.find(1)
    assert "sudo nvidia-smi mig -cgi" in caught.value.hint


def test_a_mig_instance_is_shown_to_cuda_before_it_starts(machine, monkeypatch):
    machine(name="NVIDIA A100 MIG 1g.5gb")
    instance = f"MIG-{simulated.uuid(0)}"
    with gpu.using(instance):
        assert gpu.detect().uuid == instance
        assert gpu.environment()["CUDA_VISIBLE_DEVICES"] == instance
    with pytest.raises(RequestError, match="no GPU 'MIG-0'") as caught:
        gpu.find("MIG-0")
    assert "start the program with CUDA_VISIBLE_DEVICES=MIG-0" in caught.value.hint


def test_an_instance_that_is_not_there_leaves_the_environment_as_it_was(machine):
    machine()
    with pytest.raises(RequestError):
        gpu.find("MIG-1234")
    assert "CUDA_VISIBLE_DEVICES" not in gpu.environment()


def test_doctor_names_gpus_in_mig_mode_without_an_instance(machine, monkeypatch):
    machine(count=0)
    module = pynvml_standin.make(nvmlDeviceGetMigMode=[1, 1], nvmlDeviceGetName="NVIDIA A100")
    monkeypatch.setitem(sys.modules, "pynvml", module)
    found = {finding.name: finding for finding in doctor.examine()[0]}["NVIDIA GPU"]
    assert found.status == "missing"
    assert found.detail.startswith("NVIDIA A100: in MIG mode without an instance")
    assert "nvidia-smi mig -cgi" in found.remedy
    module.answers["nvmlDeviceGetMigDeviceHandleByIndex"] = {0: "instance"}
    assert nvml.without_instances() == ()


def test_doctor_tells_of_the_chosen_gpu_and_the_others(machine):
    machine(others=[SECOND])
    with gpu.using(1):
        found = {finding.name: finding.detail for finding in doctor.examine()[0]}
    assert found["NVIDIA GPU"].startswith("Second, compute capability 12.0")
    assert found["other GPU 0"] == f"NVIDIA Stand-in, GPU-{simulated.uuid(0)}"
    assert found["CUDA from Python"] == "libcuda"


def test_nvml_looks_for_the_gpu_in_use(machine):
    machine(others=[SECOND])
    assert nvml._bus_id(1) == b"0000:42:00.0"
    assert nvml._bus_id(7) == b""


def test_errors_have_cuda_s_names_and_those_that_lose_everything_say_so(machine):
    machine()
    library = libcuda.load()
    with pytest.raises(CudaError, match="CUDA's cuDeviceGet failed: CUDA_ERROR_INVALID_DEVICE") as caught:
        library.call("cuDeviceGet", 5)
    assert (caught.value.code, caught.value.hint) == (101, "")
    simulated.failures = {"cuDeviceGetCount": 700}
    with pytest.raises(CudaError, match="CUDA_ERROR_ILLEGAL_ADDRESS") as caught:
        library.call("cuDeviceGetCount")
    assert "start the program again" in caught.value.hint
    simulated.failures = {"cuDeviceGetCount": 12345}
    with pytest.raises(CudaError, match="CUDA's cuDeviceGetCount failed: error 12345"):
        library.call("cuDeviceGetCount")


def test_a_driver_that_lacks_a_function_says_which(machine, monkeypatch):
    machine()
    monkeypatch.setitem(libcuda._FUNCTIONS, "cuNew", ("_v9", ()))
    with pytest.raises(BackendError, match="this NVIDIA driver has no cuNew_v9"):
        libcuda.load().call("cuNew")


def test_a_process_has_one_primary_context_for_each_gpu(machine):
    machine(others=[SECOND])
    for device in (None, 0, 1, 0, "1"):
        with gpu.using(device):
            connection = cuda.connect()
            with connection.active(), connection.active():
                assert simulated.stack == [connection.device] * 2
    assert simulated.stack == []
    assert list(simulated.contexts.values()) == [1, 1]


def test_the_current_context_of_a_caller_is_his_again_after_an_error(machine):
    machine(others=[SECOND])
    theirs = libcuda.load()
    theirs.call("cuCtxPushCurrent", theirs.call("cuDevicePrimaryCtxRetain", 1))
    with pytest.raises(BackendError, match="free on the GPU"), cuda.connect().active():
        cuda.connect().allocate(1 << 50)
    assert simulated.stack == [1]


def test_a_library_is_chosen_by_name_and_a_wrong_one_is_told(machine, monkeypatch):
    machine()
    assert type(cuda.connect()) is Driver
    assert cuda.unavailable() is None
    monkeypatch.setenv(cuda.VARIABLE, "cuda-python")
    monkeypatch.setattr("edgeresnext.extras.installed", lambda package: package != "cuda.bindings")
    assert "cuda-python is not installed: pip install cuda-python" in cuda.unavailable()
    monkeypatch.setenv(cuda.VARIABLE, "pycudda")
    with pytest.raises(RequestError, match="unknown library in EDGERESNEXT_CUDA 'pycudda'") as caught:
        cuda.connect()
    assert "Did you mean 'pycuda'" in caught.value.hint


def test_cuda_python_that_finds_no_driver_is_told_by_its_words(machine, monkeypatch):
    machine()

    class Module:
        def cuInit(self, flags):  # noqa: N802
            raise RuntimeError("Failed to dlopen libcuda.so.1")

    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", Module())
    with pytest.raises(BackendError, match="cuda-python does not start: Failed to dlopen"):
        CudaPython(0)
