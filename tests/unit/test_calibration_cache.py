"""TensorRT's calibration cache: the same thresholds as the Q/DQ files, in TensorRT's own format."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeresnext.backends._trt.calibrator import cache_release
from edgeresnext.bundle import CALIBRATION_CACHE
from edgeresnext.compiler.calibration_cache import plain_thresholds, read_cache, write_cache
from edgeresnext.compiler.graph import trace
from edgeresnext.compiler.plan import calibrated_tensors
from edgeresnext.errors import InputError
from edgeresnext.model.catalogue import specify
from edgeresnext.model.checkpoints import random_network
from edgeresnext.pipeline import ranges

limits = st.dictionaries(
    st.text("abc.:_ 0123", min_size=1).filter(lambda name: name.strip() == name),
    st.floats(1e-30, 1e30),
    min_size=1,
)


@given(limits)
def test_a_cache_parses_back_to_the_same_scales(thresholds):
    found = read_cache(write_cache(thresholds).encode())
    assert list(found) == list(thresholds)
    np.testing.assert_allclose(list(found.values()), list(thresholds.values()), rtol=1e-6)


def test_a_line_is_the_big_endian_float32_of_threshold_over_127():
    first, line = write_cache({"conv1": 254.0}, "100300").splitlines()
    assert first == "TRT-100300-EntropyCalibration2"
    assert line == "conv1: 40000000"
    assert struct.unpack(">f", bytes.fromhex("40000000")) == (2.0,)


@pytest.mark.parametrize(("version", "line"), [("8.6.2.3", "8602"), ("10.3.0", "100300"), ("10.13.3.9", "101303")])
def test_a_release_is_written_as_tensorrt_writes_it(version, line):
    assert cache_release(version) == line


@pytest.mark.parametrize(
    "text",
    [
        b"", b"conv1: 40000000\n", b"TRT-1\nconv1: 4000000\n", b"TRT-1\nconv1 40000000\n", b"TRT-1\nconv\xff: 40000000\n",
        b"TRT-1\nconv1: 7fc00000\n", b"TRT-1\nconv1: 7f800000\n", b"TRT-1\nconv1: c0000000\n", b"TRT-1\nconv1: 00000000\n",
    ],
    ids=["empty", "no head", "short", "no colon", "no UTF-8", "NaN", "infinite", "negative", "zero"],
)  # fmt: skip
def test_damaged_caches_are_refused(text):
    with pytest.raises(InputError, match="cache"):
        read_cache(text)


def test_the_bundle_has_the_thresholds_of_its_ranges(built):
    cache = read_cache((built.path / CALIBRATION_CACHE).read_bytes())
    limits = ranges.read(built.path).limits("signed")
    assert limits
    np.testing.assert_allclose([cache[name] for name in limits], list(limits.values()), rtol=1e-6)


def test_every_tensor_of_the_plain_graph_but_the_logits_has_a_threshold():
    spec = specify("resnext20_8x4d")
    graph = trace(random_network(spec, 0), spec.preprocess.size)
    found = plain_thresholds(graph, dict.fromkeys(calibrated_tensors(graph), 3.0), spec.preprocess)
    assert {layer.name for layer in graph.layers} - set(found) == {graph.layers[-1].name}
    assert found["images.float"] == 255
    assert 127 < found["images.centred"] < 255
