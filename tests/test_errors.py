import pickle

import pytest

from crossframe.errors import Problem, UserError, did_you_mean


def test_a_problem_reads_as_one_line():
    full = Problem("spec.yaml:4:36: grid.attention", "unknown 'framez'", "full, first", "fix it")
    assert str(full) == (
        "spec.yaml:4:36: grid.attention: unknown 'framez' (allowed: full, first). fix it"
    )
    assert str(Problem("clip.mp4", "no such file")) == "clip.mp4: no such file"


def test_an_error_holds_and_prints_every_problem():
    one, two = Problem("a", "is wrong"), Problem("b", "is wrong too")
    assert UserError(one).problems == (one,)
    both = UserError(problem for problem in (one, two))
    assert both.problems == (one, two)
    assert str(both) == "a: is wrong\nb: is wrong too"
    assert both.exit_code == 2


def test_an_error_without_problems_is_a_mistake():
    with pytest.raises(ValueError, match="at least one"):
        UserError([])


def test_an_error_survives_a_process_border():
    error = UserError([Problem("a", "is wrong"), Problem("b", "is wrong too")])
    assert pickle.loads(pickle.dumps(error)).problems == error.problems


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ful", "did you mean 'full'?"),
        ("FIRST", "did you mean 'first'?"),
        ("clip_frame/consecutiv", "did you mean 'clip_frame/consecutive'?"),
        ("zebra", ""),
    ],
)
def test_did_you_mean(name, expected):
    assert did_you_mean(name, ["full", "first", "clip_frame/consecutive"]) == expected
