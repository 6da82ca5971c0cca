"""Settings: defaults that follow from others, and what is refused."""

import pytest

from egg_reason.config import TrainConfig


def test_a_learning_rate_falls_to_a_quarter_of_its_own():
    """And not to a quarter of the default: the paper's rates lie far below it."""
    assert TrainConfig().algorithm.learning_rate_final == 0.001
    assert TrainConfig.of(learning_rate=8.8e-5).algorithm.learning_rate_final == pytest.approx(2.2e-5)
    assert TrainConfig.of(
        algorithm="grpo", learning_rate_schedule="cosine"
    ).algorithm.learning_rate_final == pytest.approx(7.5e-5)
    assert TrainConfig.of(learning_rate=0.01, learning_rate_final=0.0).algorithm.learning_rate_final == 0
    assert TrainConfig.of(learning_rate_schedule="constant").algorithm.learning_rate_final is None
    assert TrainConfig.of(algorithm="grpo").algorithm.learning_rate_final is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sigma_final": 0.01}, "sigma_final ends a schedule: give --sigma-schedule linear, or leave it out"),
        (
            {"learning_rate_schedule": "constant", "learning_rate_final": 0.001},
            "learning_rate_final ends a schedule: give --learning-rate-schedule linear, or leave it out",
        ),
        (
            {"algorithm": "grpo", "learning_rate_final": 0.001},
            "learning_rate_final ends a schedule: give --learning-rate-schedule linear, or leave it out",
        ),
    ],
)
def test_an_end_without_a_schedule_is_refused(given, message):
    with pytest.raises(ValueError) as error:
        TrainConfig.of(**given)
    assert str(error.value) == message
