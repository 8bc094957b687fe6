"""Results as files, made through the schema."""

import pytest
from synthetic import result_of

from tensloradist.spec import RunSpec


@pytest.fixture
def spec():
    return RunSpec.model_validate(
        {
            "backbone": {"name": "b", "fingerprint": "b"},
            "task": {"name": "digits", "fingerprint": "t"},
            "adapter": {"grouping": "qkv"},
        }
    )


@pytest.fixture
def make_result(spec):
    def make(attempt=1, score=0.5, state="finished"):
        return result_of(spec.run_id, attempt=attempt, score=score, state=state)

    return make
