"""Timing rounds, modes, new processes, and a memory peak with a known minimum."""

import os
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from studies.gradient_cost import AVERAGE, DIRECT, NEWTON, PoolingSetting, peaks
from studies.measurement import MODES, in_fresh_process, in_mode, interleaved_times

LINUX = pathlib.Path("/proc/self/clear_refs").exists()


def test_steps_take_turns():
    called = []

    def step_of(name):
        def step(inputs):
            called.append(name)
            return [inputs]

        return step

    times = interleaved_times({"a": step_of("a"), "b": step_of("b")}, tf.constant(1.0), repeats=3)
    assert {name: values.shape for name, values in times.items()} == {"a": (3,), "b": (3,)}
    turns = "".join(called).replace("aaaa", "A").replace("bbbb", "B")
    assert turns == "aaabbbABABAB"


@pytest.mark.parametrize("mode", MODES)
def test_modes(mode):
    inputs = tf.constant([1.0, 2.0])
    (doubled,) = in_mode(lambda x: [2.0 * x], mode, inputs)(inputs)
    np.testing.assert_allclose(doubled, [2.0, 4.0])


def test_fresh_process():
    before = dict(os.environ)
    assert in_fresh_process(os.getenv, "MALLOC_ARENA_MAX") == "1"
    assert in_fresh_process(os.getpid) != os.getpid()
    assert dict(os.environ) == before


def test_fresh_process_that_dies():
    assert in_fresh_process(os._exit, 1) is None
    with pytest.raises(TypeError):
        in_fresh_process(len, 1)


@pytest.mark.integration
@pytest.mark.skipif(not LINUX, reason="Linux alone tells the peak")
def test_peak_memory():
    setting = PoolingSetting(batch=64, size=8, channels=8, prototypes=128)
    measured = in_fresh_process(peaks, setting, DIRECT, "graph")
    costs = 4 * setting.batch * setting.size**2 * setting.prototypes
    assert costs < measured[NEWTON] < 20 * costs and measured[AVERAGE] < costs
