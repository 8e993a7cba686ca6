import pytest

from edgeresnext.backends.targets import KNOWN, Target, parse
from edgeresnext.errors import RequestError


def names(*asked):
    return [target.name for target in parse(asked)]


def test_every_known_target_is_accepted():
    assert names(*KNOWN) == list(KNOWN)


def test_rtx_targets_can_share_an_engine_in_any_order_and_count_once():
    assert names("rtx40+rtx30", "rtx30+rtx40", "rtx40+rtx40") == ["rtx30+rtx40", "rtx40"]
    assert parse(["rtx50+rtx30"])[0].compute_capabilities == ("8.6", "12.0")


def test_a100_and_gb10_are_built_for_by_tensorrt_rtx_and_may_share_with_geforce():
    assert parse(["sm80"])[0].compute_capabilities == ("8.0",)
    assert parse(["gb10"])[0].compute_capabilities == ("12.1",)
    assert parse(["gb10+rtx50+sm80"])[0] == Target(name="sm80+rtx50+gb10", compute_capabilities=("8.0", "12.0", "12.1"))
    assert not any(parse(["sm80+gb10"])[0].refuses(precision) for precision in ("fp32", "fp16", "int8"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rtx4", "Did you mean 'rtx40'"),
        ("sm86", "Did you mean 'sm80'"),
        ("rtx40+", "unknown target ''"),
        ("cpu+rtx40", "joins what cannot share an engine"),
        ("jetson-orin+jetson-thor", "joins what cannot share an engine"),
    ],
)
def test_other_names_are_refused(name, message):
    with pytest.raises(RequestError, match=message):
        parse([name])


def test_turing_has_fp16_alone():
    (turing, both, ada) = parse(["rtx20", "rtx20+rtx40", "rtx40"])
    assert [bool(turing.refuses(precision)) for precision in ("fp32", "fp16", "int8")] == [True, False, True]
    assert both.refuses("int8")
    assert not any(ada.refuses(precision) for precision in ("fp32", "fp16", "int8"))
