"""The bytes of a simulated engine: a header as NVIDIA's, a JSON description, and the ONNX file."""

import json
import struct
import zlib

HEADER_BYTES = 64
TAGS = {"tensorrt": 0x74727466, "tensorrt_rtx": 0x74727476}
# AMPERE_PLUS
PORTABLE_FROM = [8, 0]
# The major release that runs version-compatible engines of another (support matrix of TensorRT 11.4.1).
NEXT_MAJOR = {8: 10, 10: 11}


class BadPlanError(Exception):
    """A plan that the runtime refuses; `diagnostic` is the name that TensorRT-RTX has for the reason."""

    def __init__(self, diagnostic, message):
        super().__init__(message)
        self.diagnostic = diagnostic


def version_bytes(version):
    """Major, minor, patch and build of a version, a byte each."""
    return bytes(int(part) & 0xFF for part in version.split("."))


def pack(module_name, version, description, onnx_bytes):
    """The bytes of a plan."""
    text = json.dumps({**description, "onnx_crc": zlib.crc32(onnx_bytes)}).encode()
    size = HEADER_BYTES + 4 + len(text) + len(onnx_bytes)
    header = struct.pack("<IIIIQ", TAGS[module_name], 0, 2, 0, size) + version_bytes(version)
    return header.ljust(HEADER_BYTES, b"\0") + struct.pack("<I", len(text)) + text + onnx_bytes


def unpack(data):
    """(description, ONNX bytes) of a plan whose header is right."""
    start = HEADER_BYTES + 4
    try:
        (length,) = struct.unpack_from("<I", data, HEADER_BYTES)
        description, onnx_bytes = json.loads(data[start : start + length]), data[start + length :]
    except (struct.error, ValueError) as error:
        raise BadPlanError("MALFORMED_ENGINE", "the plan is damaged") from error
    if zlib.crc32(onnx_bytes) != description["onnx_crc"]:
        raise BadPlanError("MALFORMED_ENGINE", "the plan is damaged")
    return description, onnx_bytes


def read(data, module_name, version, gpu, *, host_code_allowed=False):
    """(description, ONNX bytes) of a plan, or BadPlanError where this release on this device cannot run it."""
    if len(data) < HEADER_BYTES:
        raise BadPlanError("MALFORMED_ENGINE", "Assertion bufferSize >= minBufferSize failed.")
    tag, _, _, _, size = struct.unpack_from("<IIIIQ", data)
    if tag != TAGS[module_name]:
        message = (
            f"Serialization assertion header.magicTag == kEXPECTED_MAGIC_TAG failed. ({tag} != {TAGS[module_name]})"
        )
        raise BadPlanError("MALFORMED_ENGINE", message)
    if len(data) < size:
        raise BadPlanError("MALFORMED_ENGINE", f"the plan is truncated: {len(data)} of {size} bytes")
    wanted, here = data[24:28], version_bytes(version)
    if wanted != here:
        later = wanted <= here if wanted[0] == here[0] else NEXT_MAJOR.get(wanted[0]) == here[0]
        if not (host_code_allowed and later and "VERSION_COMPATIBLE" in unpack(data)[0]["flags"]):
            built = ".".join(map(str, wanted))
            message = f"The engine plan file is not compatible with this version of TensorRT, expecting library version {version} got {built}"
            raise BadPlanError("VERSION_MISMATCH", message)
    description, onnx_bytes = unpack(data)
    flags = description["flags"]
    if "VERSION_COMPATIBLE" in flags and "EXCLUDE_LEAN_RUNTIME" not in flags and not host_code_allowed:
        # IRuntime::setEngineHostCodeAllowed: the plan carries a lean runtime, which is host code.
        raise BadPlanError("VERSION_MISMATCH", "Cannot deserialize engine with lean runtime: host code is not allowed")
    if not runs_on(description, gpu.capability):
        message = f"The engine was built for compute capability {description['targets']}, and this device has {gpu.capability}"
        raise BadPlanError("UNSUPPORTED_CC", message)
    if len(data) > gpu.memory_bytes - gpu.used_bytes:
        raise BadPlanError("INSUFFICIENT_GPU_MEMORY", "Requested amount of GPU memory could not be allocated")
    return description, onnx_bytes


def runs_on(description, capability):
    """Whether the plan was built for a device of this compute capability."""
    if description["portable"]:
        return capability >= PORTABLE_FROM
    return capability in description["targets"]
