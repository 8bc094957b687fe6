"""Batches ahead of their step: the examples that were asked for, errors that reach the loop, and threads that end."""

import threading
import time
from itertools import pairwise

import numpy as np
import pytest
import torch
from fake_cuda import streams

from tensloradist.backbones import family_of
from tensloradist.backbones.base import FAMILIES
from tensloradist.backbones.masks import known_padding
from tensloradist.tasks.base import HostBatch, SplitData
from tensloradist.training.batches import Batches
from tensloradist.training.order import MicroBatch, unweighted

CPU = torch.device("cpu")


class Numbers(SplitData):
    """Each example is its own number; reading takes `seconds`, and fails at the number `broken`."""

    def __init__(self, seconds=0.0, broken=None):
        self.ids, self.labels = [str(i) for i in range(100)], np.arange(100) % 7
        self.seconds, self.broken, self.asked = seconds, broken, []

    def batch(self, indices, augment):
        return self.read(indices, augment).inputs()

    def read(self, indices, augment):
        time.sleep(self.seconds)
        self.asked.append(augment)
        if self.broken in indices:
            raise OSError(f"example {self.broken}")
        return HostBatch({"numbers": torch.as_tensor(indices)}, lambda tensors: {"doubled": 2 * tensors["numbers"]})


def micros(*sizes):
    bounds = np.cumsum([0, *sizes])
    return [unweighted(np.arange(low, high)) for low, high in pairwise(bounds)]


def test_each_micro_batch_comes_finished_with_its_labels_and_weights():
    split, plan = Numbers(), [*micros(4, 4), MicroBatch(np.asarray([9, 9]), np.asarray([1, 0], np.float32))]
    with Batches(split, plan, CPU, (3, 1)) as ready:
        found = list(ready)
    assert [batch.inputs["doubled"].tolist() for batch in found] == [[0, 2, 4, 6], [8, 10, 12, 14], [18, 18]]
    assert [batch.labels.tolist() for batch in found] == [[0, 1, 2, 3], [4, 5, 6, 0], [2, 2]]
    assert found[2].weights.tolist() == [1, 0] and found[0].weights.dtype == torch.float32
    assert split.asked == [(3, 1)] * 3 and found[0].padded is None


def test_what_fails_in_a_thread_fails_in_the_loop():
    with Batches(Numbers(broken=5), micros(4, 4, 4), CPU) as ready:
        next(ready)
        with pytest.raises(OSError, match="example 5"):
            next(ready)


def test_threads_end_with_a_loop_that_is_interrupted():
    def loop():
        with Batches(Numbers(), micros(*[1] * 50), CPU) as ready:
            next(ready)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_the_time_that_a_step_waits_for_its_data_is_answered_from_its_own():
    with Batches(Numbers(seconds=0.03), micros(*[4] * 6), CPU) as ready:
        for _ in ready:
            pass
        assert ready.waited() > 0.15 and ready.waited() == 0, "since the last call"
    with Batches(Numbers(seconds=0.01), micros(*[4] * 6), CPU) as ready:
        next(ready)
        ready.waited()
        for _ in range(5):
            time.sleep(0.05)  # the step, in which the next batch is made
            next(ready)
        assert ready.waited() < 0.1


@pytest.mark.parametrize("several", [False, True])
def test_a_plugins_data_are_read_by_one_thread_in_order_on_a_gpu_unless_it_allows_more(several):
    class Reads(Numbers):
        several_at_once = several

        def read(self, indices, augment):
            self.asked.append((int(indices[0]), threading.current_thread().name))
            return super().read(indices, augment)

    split = Reads(seconds=0.01)
    with streams(), Batches(split, micros(*[1] * 12), torch.device("cuda"), threads=4) as ready:
        ready._copied = lambda read: read
        assert len(list(ready)) == 12
    asked = [entry for entry in split.asked if entry is not None]
    assert (len({thread for _, thread in asked}) > 1) == several
    assert several or [index for index, _ in asked] == list(range(12))


def test_a_second_mask_leaves_the_question_of_padding_to_the_model():
    class Masked(Numbers):
        def read(self, indices, augment):
            ones = torch.ones(len(indices), 3)
            return HostBatch({"attention_mask": ones, **({"decoder_attention_mask": ones} if self.broken else {})})

    found = []
    with streams():
        for second in (None, 200):
            with Batches(Masked(broken=second), micros(2), torch.device("cuda")) as ready:
                ready._copied = lambda read: read
                found.append(next(ready).padded)
    assert found == [False, None]


@pytest.mark.parametrize("name", ["bert", "llama", "gemma"])
@pytest.mark.parametrize("padded", [False, True])
def test_a_model_that_is_answered_of_padding_computes_what_it_does_when_it_looks(name, padded):
    model, inputs = FAMILIES[name].example()
    if not padded:
        inputs["attention_mask"] = torch.ones_like(inputs["attention_mask"])
    with torch.no_grad():
        looked = family_of(model).logits(model, inputs)
        with known_padding(padded):
            answered = family_of(model).logits(model, inputs)
        with known_padding(not padded):
            wrongly = family_of(model).logits(model, inputs)
    assert torch.equal(looked, answered)
    # A mask of ones changes nothing; one that is left out changes what is not causal, as padding comes last.
    assert torch.equal(looked, wrongly) == (not padded or name in ("llama", "gemma"))
