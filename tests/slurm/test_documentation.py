"""The documentation's blocks that need a cluster, typed in their order on a real one."""

import json
from pathlib import Path

import pytest
from slurm_sweeps import Sweep, tensloradist

pytestmark = pytest.mark.slurm
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("page", ["README.md", "docs/clusters.md"])
def test_the_page_runs_on_a_cluster(cluster, tmp_path, monkeypatch, page):
    monkeypatch.syspath_prepend(ROOT / "tests" / "docs")
    from documentation import blocks_of, commands_of

    sweep = Sweep(tmp_path, methods="lora", epochs=2, task="digits")
    sweep.profile.rename(tmp_path / "my_site.yaml")
    monkeypatch.chdir(tmp_path)
    blocks = [block for block in blocks_of(ROOT / page) if block.needs == "a Slurm cluster"]
    commands = [words for block in blocks for words in commands_of(block)]
    assert [words[1] for words in commands if words[1] in ("launch", "status")] == ["launch", "status"]
    for name, *words in commands:
        assert name == "tensloradist"
        tensloradist(*words)
    status = json.loads(tensloradist("status", "sweep.yaml", "--json").stdout)
    assert status["counts"] == {"finished": 1}, status
