"""A warning where half precision costs time."""

import pytest
import torch
from training import precision
from training.precision import seconds_of_product, warn_if_slow


@pytest.mark.parametrize(("slowdown", "warned"), [(120.0, True), (0.5, False)])
def test_slow_processors_are_told_of(slowdown, warned, monkeypatch, recwarn):
    times = {torch.float32: 0.001, torch.bfloat16: 0.001 * slowdown}
    monkeypatch.setattr(precision, "seconds_of_product", times.__getitem__)
    warn_if_slow(torch.device("cpu"), torch.bfloat16)
    assert [str(one.message)[:45] for one in recwarn] == ["This CPU multiplies matrices 120 times more s"] * warned


def test_nothing_is_measured_for_single_precision_or_on_other_devices(monkeypatch):
    monkeypatch.setattr(precision, "seconds_of_product", None)
    warn_if_slow(torch.device("cpu"), torch.float32)
    warn_if_slow(torch.device("cuda"), torch.bfloat16)


def test_products_take_time():
    assert 0 < seconds_of_product(torch.float32) < 1
