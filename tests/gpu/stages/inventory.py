"""What this machine is: GPU, driver, packages."""

import importlib.metadata
import shutil
import subprocess

from gpu.check import Skipped, check

PACKAGES = (
    "torch", "triton", "tensorrt", "tensorrt-rtx", "tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu12-bindings", "cuda-python",
    "cuda-bindings", "pycuda", "cupy-cuda13x", "cupy-cuda12x", "onnx", "onnxruntime", "openvino", "numpy", "nvidia-ml-py",
)  # fmt: skip
QUERY = "name,uuid,driver_version,memory.total,clocks.max.sm,clocks.max.memory,power.limit,mig.mode.current,ecc.mode.current"


@check(60)
def machine(work):
    """The machine as reports name it, and the packages that matter."""
    from edgeresnext.machine.environment import environment, package_versions

    return {"environment": environment(), "packages": package_versions(*PACKAGES)}


@check(60)
def doctor(work):
    """What doctor says."""
    from edgeresnext.cli.doctor import examine

    findings, jobs = examine()
    return {
        "findings": {one.name: f"{one.status}: {one.detail}" for one in findings},
        "jobs": {one.name: one.reason or "possible" for one in jobs},
    }


@check(60)
def smi(work):
    """What nvidia-smi says."""
    if shutil.which("nvidia-smi") is None:
        raise Skipped("there is no nvidia-smi")
    said = subprocess.run(
        ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv"], capture_output=True, text=True, timeout=50, check=True
    ).stdout.splitlines()
    keys, values = (line.split(", ") for line in said[:2])
    return dict(zip(keys, values, strict=True))


@check(120)
def torch(work):
    """PyTorch sees the same GPU as the driver."""
    from edgeresnext.machine import gpu

    try:
        import torch as framework
    except ImportError:
        raise Skipped("PyTorch is not installed") from None
    if not framework.cuda.is_available():
        raise Skipped(f"this PyTorch ({framework.__version__}) has no CUDA")
    seen, device = framework.cuda.get_device_properties(0), gpu.detect()
    assert f"{seen.major}.{seen.minor}" == device.compute_capability
    assert seen.multi_processor_count == device.multiprocessors
    return {"name": seen.name, "cuda": framework.version.cuda, "multiprocessors": seen.multi_processor_count}


@check(60)
def distributions(work):
    """Everything that is installed, for those who look into a failure."""
    return {"installed": sorted(f"{one.name} {one.version}" for one in importlib.metadata.distributions())}
