"""ONNX files of the corpus that our reader lets in: a runtime runs them, or is refused in words."""

from pathlib import Path

import numpy as np
import pytest
from fuzzing.targets import CORPUS, MANIFEST, SPEC

from edgeresnext.backends import registry
from edgeresnext.bundle.onnx_file import check_onnx
from edgeresnext.errors import BackendError, BundleError


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("path", sorted((CORPUS / "onnx").iterdir()), ids=lambda path: path.name)
def test_what_is_let_in_is_run_or_refused_in_words(path, backend):
    content = path.read_bytes()
    try:
        check_onnx(content, SPEC, path)
        session = registry.get(backend).open(Path("x.onnx"), SPEC, MANIFEST.artifacts[0], 1, content=content)
    except (BackendError, BundleError):
        assert path.name not in ("fp32", "int8")
        return
    assert session.run(np.zeros((2, 8, 8, 3), np.uint8)).shape == (2, 2)
    session.close()
