"""One batch at a time of a second loader."""

import pytest

from base import BaseDataLoader
from base.training.batch_stream import BatchStream
from helpers import TinyData
from utils import UserError


def test_a_second_loader_that_ends_before_the_first_is_named_with_the_remedy():
    loader = BaseDataLoader(TinyData(), 25, True, 0.0, 0)
    stream = BatchStream(loader)
    assert [len(stream.batch(1, batch_idx)[0]) for batch_idx in range(2)] == [25, 25]
    with pytest.raises(UserError, match="BaseDataLoader: has no batch 3 in epoch 1; give its BatchStream len_epoch"):
        stream.batch(1, 2)
    assert len(BatchStream(loader, len_epoch=3).batch(1, 2)[0]) == 25
