"""The same answers on every processor: child processes that see other ones than this machine's.

oneDNN can be told to use less than the processor has; an emulator runs ONNX Runtime, which cannot, as on older ones.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest

from edgeresnext.compiler.evaluate import Evaluator
from edgeresnext.data import folder
from edgeresnext.data.images import batches
from edgeresnext.machine import cpu

LIMITS = [
    "AVX2",
    pytest.param("SSE41", marks=pytest.mark.slow),
    pytest.param("AVX512_CORE", marks=pytest.mark.slow),
    pytest.param("", marks=pytest.mark.slow),
]
TESTED_IMAGES = 200

EVERYTHING = """
import hashlib, json, sys
import numpy as np, onnx
import edgeresnext
from edgeresnext.compiler.evaluate import Evaluator
from edgeresnext.data import folder
from edgeresnext.data.images import batches
root, weights, calibration, validation, known = sys.argv[1:]
built = edgeresnext.build("resnext20_8x4d", weights=weights, calibration=calibration, output=root + "/bundle",
                          recipe=edgeresnext.Recipe(samples=32), precisions=["fp32", "int8"],
                          gate=edgeresnext.Gate(validation=validation))
checks = edgeresnext.verify(built.path)
photos = folder.scan(validation)
images = np.concatenate([some for some, _ in batches(photos.images, built.manifest.model.preprocess, 50)])
def top1(classifier):
    return float((classifier.logits(images).argmax(1) == np.array(photos.targets)).mean())
with edgeresnext.load(built.path, precision="int8") as int8, edgeresnext.load(built.path, backend="torch") as torch, \
     edgeresnext.load(built.path) as any_, edgeresnext.load(known) as old:
    print(json.dumps({
        "checks": {c.artifact: [c.status, c.fidelity and c.fidelity.snr_db] for c in checks},
        "files": {f.file: [f.fidelity.snr_db, f.verdict and f.verdict.drop] for f in built.manifest.onnx},
        "saturated": next(f.saturated.snr_db for f in built.manifest.onnx if f.file == "onnx/int8-cpu.onnx"),
        "int8": [int8.artifact.precision, top1(int8)], "torch": top1(torch), "any": [any_.reason, top1(any_)],
        "known": top1(old),
        "says": {name: hashlib.sha256(Evaluator(onnx.load(f"{known}/onnx/{name}.onnx")).logits(images)).hexdigest()
                 for name in ("int8", "int8-cpu")},
    }))
"""


def child(*arguments, environment=None, command=(sys.executable,)):
    """Run Python in another environment, and return what its last line says."""
    # OPENBLAS_CORETYPE would let OpenBLAS use instructions that an emulated processor does not have.
    chosen = ("ONEDNN", "DNNL", "OPENBLAS")
    variables = {name: value for name, value in os.environ.items() if not name.startswith(chosen)}
    run = subprocess.run(
        [*command, "-c", *arguments], env=variables | (environment or {}), capture_output=True, text=True, check=False, timeout=540,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def on_each(tmp_path_factory, built, digit_folders, few_digits, digit_weights):
    """What a build, a gate and predictions come to under each limit, each found when it is first asked for."""
    found = {}

    def call(limit):
        if limit == "AVX512_CORE" and "avx512f" not in cpu.isa():
            pytest.skip("this processor has no AVX-512, and an environment variable cannot lend it one")
        if limit not in found:
            root = tmp_path_factory.mktemp("processor")
            folders = [str(digit_folders["calibration"]), str(few_digits)]
            found[limit] = child(
                EVERYTHING, str(root), str(digit_weights), *folders, str(built.path),
                environment={"ONEDNN_MAX_CPU_ISA": limit} if limit else {},
            )  # fmt: skip
        return found[limit]

    return call


@pytest.mark.parametrize("limit", LIMITS)
def test_int8_is_right_whatever_the_processor(on_each, limit):
    found = on_each(limit)
    status, snr_db = found["checks"]["openvino-int8"]
    said, drop = found["files"]["onnx/int8-cpu.onnx"]
    assert status == "ok"
    assert snr_db >= 36
    assert snr_db == pytest.approx(said, abs=0.7)  # what OpenVINO makes of the file is what the file says
    assert found["saturated"] == pytest.approx(said, abs=0.5)
    assert drop <= 0.5
    assert {name: status for name, (status, _) in found["checks"].items() if status == "failed"} == {}
    precision, top1 = found["int8"]
    assert precision == "int8"  # a proof that fails would have ended this load
    assert top1 == pytest.approx(found["torch"], abs=0.003 + 1 / TESTED_IMAGES)


@pytest.mark.parametrize("limit", LIMITS)
def test_a_bundle_from_elsewhere_answers_rightly_and_says_why(on_each, limit):
    found = on_each(limit)
    reason, top1 = found["any"]
    assert "the fastest that runs here, as measured on" in reason
    for answers in (top1, found["known"]):  # built under this limit, and built without one
        assert answers == pytest.approx(found["torch"], abs=0.003 + 1 / TESTED_IMAGES)


@pytest.mark.parametrize("limit", LIMITS)
def test_what_a_file_says_does_not_depend_on_the_processor(on_each, limit, built, few_digits):
    says = on_each(limit)["says"]
    photos = folder.scan(few_digits).images
    images = np.concatenate([some for some, _ in batches(photos, built.manifest.model.preprocess, 50)])
    for name in ("int8", "int8-cpu"):
        here = Evaluator(onnx.load(built.file(f"onnx/{name}.onnx"))).logits(images)
        assert says[name] == hashlib.sha256(here).hexdigest()


EMULATED = """
import json, sys
import edgeresnext
from edgeresnext.machine import cpu
checks = {}
bundle = edgeresnext.bundle.read(sys.argv[1])
for precision in ("int8", "fp32"):
    with edgeresnext.load(sys.argv[1], backend="onnxruntime", precision=precision) as classifier:
        golden = bundle.golden().first(8)
        checks[precision] = golden.compare(classifier.logits(golden.images)).snr_db
print(json.dumps({"checks": checks, "saturates": cpu.saturates(), "isa": sorted(cpu.isa())}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("processor", ["Haswell", "Nehalem"])
def test_onnxruntime_on_processors_without_vnni(built, processor, tmp_path):
    emulator = shutil.which("qemu-x86_64-static") or shutil.which("qemu-x86_64")
    if emulator is None:
        pytest.skip("no qemu-x86_64 here: apt install qemu-user-static")
    environment = {"EDGERESNEXT_CACHE": str(tmp_path)}
    code = EMULATED.replace("import edgeresnext\n", "import edgeresnext, edgeresnext.bundle\n")
    found = child(code, str(built.path), environment=environment, command=(emulator, "-cpu", processor, sys.executable))
    if "avx512f" in cpu.isa():  # else nothing tells an emulated processor from its host
        assert found["saturates"]
    assert not {"avx512f", "avx512_vnni"} & set(found["isa"])
    assert found["checks"]["int8"] >= 36
    assert found["checks"]["fp32"] >= 100
