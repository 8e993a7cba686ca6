import errno
import os

import pytest

from edgeresnext.errors import RequestError
from edgeresnext.report.sensitivity import plot, sensitivity_figure
from edgeresnext.spec import LayerCost, Sensitivity


def found():
    """What two layers cost."""
    layers = tuple(LayerCost(layer=name, snr_db=20.0, share=0.5, agreement=0.99) for name in ("conv1", "fc"))
    together = LayerCost(layer="all", snr_db=29.0, share=1.0, agreement=0.97)
    return Sensitivity(bundle="b", file="onnx/int8.onnx", data="'val'", images=64, together=together, layers=layers)


@pytest.mark.parametrize(("suffix", "start"), [(".svg", b"<?xml"), (".png", b"\x89PNG"), (".pdf", b"%PDF")])
def test_a_drawing_appears_whole_or_not_at_all(tmp_path, monkeypatch, suffix, start):
    path = tmp_path / f"p{suffix}"
    plot(found(), path)
    assert path.read_bytes().startswith(start)
    before = path.read_bytes()

    def full(_descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RequestError, match="No space left on device"):
        plot(found(), path)
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_each_layer_is_a_bar_and_the_worst_are_red():
    shares = {"conv1": 0.30, "layer1.0.conv1": 0.10, "layer1.0.conv2": 0.16, "fc": 0.0}
    layers = tuple(
        LayerCost(layer=name, snr_db=20.0 if share else None, share=share, agreement=0.99)
        for name, share in shares.items()
    )
    together = LayerCost(layer="all", snr_db=29.0, share=1.0, agreement=0.97)
    found = Sensitivity(bundle="b", file="onnx/int8.onnx", data="'val'", images=64, together=together, layers=layers)
    axes = sensitivity_figure(found).axes[0]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([30, 10, 16, 0])
    assert [bar.get_facecolor()[0] > 0.5 for bar in axes.patches] == [True, False, True, False]
    assert [text.get_text() for text in axes.texts] == ["20.0 dB", "20.0 dB", "20.0 dB", "exact"]
    assert "29.0 dB with all of them" in axes.get_title()
