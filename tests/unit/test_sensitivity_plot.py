import pytest

from edgeresnext.report.sensitivity import sensitivity_figure
from edgeresnext.spec import LayerCost, Sensitivity


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
