"""Results as files, made through the schema."""

import pytest

from tensloradist.results.schema import Fingerprints, Metrics, PeakMemory, Result, Times
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
        metrics = {"accuracy": score}
        return Result(
            run_id=spec.run_id,
            state=state,
            attempt=attempt,
            metrics=Metrics(
                primary="accuracy",
                validation=metrics,
                test=metrics,
                test_at_best_validation=metrics,
                best_epoch=1,
                score=score,
                validation_score=score,
            ),
            adapter_parameters=10,
            trainable_parameters=20,
            times=Times(
                total_seconds=1,
                load_seconds=0,
                train_seconds=1,
                evaluate_seconds=0,
                step_seconds=0.1,
                samples_per_second=10,
                steps=3,
            ),
            peak_memory=PeakMemory(host_bytes=1, device_bytes=None),
            fingerprints=Fingerprints(data="d", split="s", data_order="o", head="h", backbone="b"),
            provenance={},
        )

    return make
