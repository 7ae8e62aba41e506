import pytest

from clipreid_lib.method.schedules import encoder_rate, handid_rate, prompt_rate
from clipreid_lib.params.recipes import VIT, recipe_of


def test_prompt_rate_gives_the_published_values():
    published = {1: 7.8e-5, 4: 2.82e-4, 5: 3.485e-4, 60: 1.755e-4, 120: 1e-6}
    for epoch, rate in published.items():
        assert prompt_rate(epoch, 120, 3.5e-4, VIT.prompt_warm_up) == pytest.approx(rate, rel=1e-3)


def test_encoder_rate_gives_the_published_values():
    published = {1: 0.19 * 5e-6, 10: 5e-6, 29: 5e-6, 30: 5e-7, 49: 5e-7, 50: 5e-8, 60: 5e-8}
    for epoch, rate in published.items():
        assert encoder_rate(epoch, 60, 5e-6, VIT.warm_start, VIT.steps) == pytest.approx(rate, rel=1e-6)


def test_encoder_rate_gives_the_resnets_published_values():
    resnet = recipe_of("rn50")
    for epoch, rate in {1: 7.8e-5, 2: 1.46e-4, 5: 3.44e-4}.items():
        assert prompt_rate(epoch, 60, 3.5e-4, resnet.prompt_warm_up) == pytest.approx(rate, rel=1e-2)
    published = {1: 0.109 * 3.5e-4, 10: 3.5e-4, 39: 3.5e-4, 40: 3.5e-5, 69: 3.5e-5, 70: 3.5e-6, 120: 3.5e-6}
    for epoch, rate in published.items():
        found = encoder_rate(epoch, 120, 3.5e-4, resnet.warm_start, resnet.steps)
        assert found == pytest.approx(rate, rel=1e-6)


@pytest.mark.parametrize("epochs", [1, 2, 7])
def test_short_runs_have_positive_rates(epochs):
    for epoch in range(1, epochs + 1):
        assert 0 < prompt_rate(epoch, epochs, 1.0, VIT.prompt_warm_up) <= 1.0
        assert 0 < encoder_rate(epoch, epochs, 1.0, VIT.warm_start, VIT.steps) <= 1.0


def test_handid_rate_gives_the_published_values():
    published = {1: 5e-8, 2: 5e-8 + 4.95e-7, 10: 5e-8 + 9 * 4.95e-7, 11: 5e-6, 40: 5e-6, 41: 2.5e-6, 61: 1.25e-6}
    for epoch, rate in published.items():
        assert handid_rate(epoch, 70, 5e-6) == pytest.approx(rate, rel=1e-6)
