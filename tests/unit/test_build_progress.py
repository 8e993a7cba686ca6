from edgeresnext.backends._trt.progress import Phases


def test_a_phase_is_part_of_one_step_of_its_parent():
    phases = Phases()
    phases.start("engine", None, 4)
    phases.step("engine", 0)
    assert phases.percent == 25
    phases.start("tactics", "engine", 10)
    phases.step("tactics", 4)
    assert phases.percent == 37
    phases.finish("tactics")
    phases.step("engine", 1)
    assert phases.percent == 50


def test_progress_never_goes_back():
    phases = Phases()
    phases.start("engine", None, 2)
    phases.start("inner", "engine", 2)
    phases.step("inner", 1)
    assert phases.percent == 50
    phases.finish("inner")
    phases.start("another", "engine", 100)
    assert phases.percent == 50
    phases.step("engine", 1)
    assert phases.percent == 100
    phases.finish("engine")
    assert phases.percent == 100


def test_a_phase_without_steps_or_start_is_no_error():
    phases = Phases()
    phases.start("engine", None, 0)
    phases.step("unheard of", 3)
    assert phases.percent == 0
