from __future__ import annotations

import ctypes

import pytest
import torch

from chatwright.training import runtime


def test_prepare_may_be_called_again() -> None:
    assert runtime.prepare("cpu") == runtime.prepare("cpu") == torch.device("cpu")


def test_there_is_nothing_to_tell_a_c_library_that_is_not_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime._keep_freed_memory.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert runtime._keep_freed_memory() is False
    runtime._keep_freed_memory.cache_clear()


def test_auto_is_float32_where_bfloat16_is_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "fast_bfloat16", lambda device_type: False)
    assert runtime.resolve("auto", torch.device("cpu")) == torch.float32
    assert runtime.resolve("bfloat16", torch.device("cpu")) == torch.bfloat16


def test_matrices_are_multiplied_in_the_precision_asked_for() -> None:
    x = torch.ones(2, 2)
    with runtime.autocast("bfloat16", torch.device("cpu")):
        assert (x @ x).dtype == torch.bfloat16
    with runtime.autocast("float32", torch.device("cpu")):
        assert (x @ x).dtype == torch.float32


def test_there_is_at_least_one_core() -> None:
    assert runtime.usable_cores() >= 1
