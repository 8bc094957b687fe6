"""The strategy `spectrum` in a sweep, whose ranks are settled when it is planned, and the command `spectra`."""

import json
import xml.etree.ElementTree

import pytest
from typer.testing import CliRunner

from launch.planning.plan import check, write_manifest
from launch.planning.spectra import draw, reports
from launch.planning.sweep_file import load_sweep
from tensloradist.cli import _application
from tensloradist.errors import UserError
from tensloradist.results.schema import Manifest

SWEEP = """
name: test
backbone: {source: digits_vit, name: digits_vit}
task: {name: digits}
methods: [lora, {tenslora: {grouping: [att_qkv_depth, qkv_depth], factorization: [tucker, tt, cp]}}, lorta]
conditions:
  - isoparameter: {lora_rank: 4, strategy: spectrum}
  - isoparameter: {lora_rank: 4}
seeds: 2
optimizer: {epochs: 1, batch_size: 32}
"""
RUN = """
backbone: {source: digits_vit, name: digits_vit}
task: {name: digits}
adapter: {grouping: att_depth}
optimizer: {batch_size: 32}
"""


@pytest.fixture
def path(tmp_path):
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    return tmp_path / "sweep.yaml"


def by_row(sweep, condition):
    found = {}
    for run in sweep.runs:
        if condition in [c.condition for c in run.conditions]:
            found.setdefault(run.row, set()).add(json.dumps(run.ranks))
    return found


def test_ranks_are_settled_when_planned_and_part_of_the_identity(path, tmp_path):
    sweep = load_sweep(str(path))
    check(sweep, tmp_path)  # every count is proved on the meta device
    again = load_sweep(str(path))
    assert [run.run_id for run in again.runs] == [run.run_id for run in sweep.runs]
    spectrum, balanced = by_row(sweep, "isoparameter r=4 spectrum"), by_row(sweep, "isoparameter r=4")
    assert all(len(ranks) == 1 for ranks in spectrum.values()), "all seeds have the same ranks"
    for row in spectrum:
        one_rank = row in ("lora", "lorta") or row.endswith(" cp")
        assert (spectrum[row] == balanced[row]) == one_rank, row
    manifest = Manifest.model_validate_json(write_manifest(sweep, tmp_path).read_text())
    for run in manifest.runs:
        given = run.spec["adapter"]["ranks"]
        assert run.ranks == (given if isinstance(given, dict) else dict.fromkeys(run.ranks, given))
        for membership in run.conditions:
            assert (
                abs(membership.residual) <= (0.05 if "tt" in run.row else 0.02) or "cp" in run.row or "lor" in run.row
            )


def test_pinned_modes_and_fused_ones(path):
    path.write_text(
        SWEEP.replace("strategy: spectrum", "strategy: spectrum, pinned: {depth: 2}").replace(", tt, cp", "")
    )
    ranks = by_row(load_sweep(str(path)), "isoparameter r=4 spectrum depth=2")
    assert all(json.loads(next(iter(ranks[row])))["depth"] == 2 for row in ranks if "tucker" in row)
    path.write_text(SWEEP.replace("lorta]", "fact_tk]"))
    (ranks,) = by_row(load_sweep(str(path)), "isoparameter r=4 spectrum")["fact_tk"]
    assert list(json.loads(ranks)) == ["input", "output", "block"] and len(set(json.loads(ranks).values())) > 1


def test_the_command_shows_and_draws_every_adapter_once(path, tmp_path):
    found = reports(str(path))
    assert [r.method for r in found] == [f"{g} {f}" for g in ("att_qkv_depth", "qkv_depth") for f in ("tucker", "tt")]
    pytest.importorskip("matplotlib")
    shown = CliRunner().invoke(_application(), ["spectra", str(path), "--out", str(tmp_path / "out")])
    assert shown.exit_code == 0, shown.output
    assert "top-1 energy" in shown.output and "att_qkv_depth tucker · digits_vit · digits" in shown.output
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["spectra.csv", "spectra.png", "spectra.svg"]
    xml.etree.ElementTree.parse(tmp_path / "out" / "spectra.svg")
    assert (tmp_path / "out" / "spectra.png").read_bytes()[:4] == b"\x89PNG"
    assert len((tmp_path / "out" / "spectra.csv").read_text().splitlines()) == 1 + 5 + 4 + 4 + 3
    assert draw(found)["spectra.svg"] == (tmp_path / "out" / "spectra.svg").read_bytes(), "equal spectra, equal bytes"


def test_a_run_file_has_spectra_too_and_lora_none(path, tmp_path):
    (tmp_path / "run.yaml").write_text(RUN)
    (report,) = reports(str(tmp_path / "run.yaml"))
    assert [s.rank_name for s in report.spectra] == ["input", "head_dim", "heads", "depth"]
    (tmp_path / "run.yaml").write_text(RUN.replace("{grouping: att_depth}", "{method: lora}"))
    with pytest.raises(UserError, match="nothing to show"):
        reports(str(tmp_path / "run.yaml"))
