"""The order of examples: each once an epoch, a function of seed and epoch, shared exactly between processes."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tensloradist.training.order import epoch_batches, order_fingerprint, share

sizes = st.integers(1, 300)


@given(examples=sizes, batch=st.integers(1, 64), seed=st.integers(0, 99), epoch=st.integers(0, 9), text=st.booleans())
def test_each_example_once_and_reproducible(examples, batch, seed, epoch, text):
    lengths = np.random.default_rng(0).integers(1, 100, examples) if text else None
    batches = epoch_batches(examples, batch, seed, epoch, lengths)
    assert sorted(np.concatenate(batches)) == list(range(examples))
    assert all(len(b) <= batch for b in batches) and len(batches) == -(-examples // batch)
    again = epoch_batches(examples, batch, seed, epoch, lengths)
    assert all(np.array_equal(a, b) for a, b in zip(batches, again, strict=True))


def test_seeds_and_epochs_differ_and_fingerprints_tell():
    ids = [f"image{i}" for i in range(100)]
    orders = {(s, e): order_fingerprint(ids, epoch_batches(100, 8, s, e)) for s in range(3) for e in range(3)}
    assert len(set(orders.values())) == 9
    assert orders[0, 0] == order_fingerprint(ids, epoch_batches(100, 8, 0, 0))


def test_length_grouping_pads_less():
    lengths = np.random.default_rng(0).integers(5, 120, 3000)

    def padded(batches):
        return sum(len(b) * lengths[b].max() for b in batches)

    grouped, plain = epoch_batches(3000, 16, 0, 0, lengths), epoch_batches(3000, 16, 0, 0)
    assert padded(grouped) < 0.65 * padded(plain)
    heads = [lengths[b].mean() for b in grouped]
    assert np.abs(np.corrcoef(heads, range(len(heads)))[0, 1]) < 0.2, "batches must not come in order of length"


@given(n=sizes, processes=st.integers(1, 8), micro=st.one_of(st.none(), st.integers(1, 16)))
def test_shares_cover_a_batch_exactly_and_padding_weighs_nothing(n, processes, micro):
    batch = np.random.default_rng(1).permutation(n)
    shares = [share(batch, rank, processes, micro) for rank in range(processes)]
    real = np.concatenate([m.indices[m.weights == 1] for s in shares for m in s])
    assert sorted(real) == list(range(n))
    assert len({tuple(len(m.indices) for m in s) for s in shares}) == 1, "all processes make the same passes"
    if processes == 1:
        assert all((m.weights == 1).all() for m in shares[0])
