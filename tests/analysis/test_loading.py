"""Loading: the column dictionary, the cache that is only a cache, several sweeps, and files that are not results."""

import json
import os
from pathlib import Path

import pandas as pd
import pyarrow.parquet
import pytest
from synthetic import put_manifest

from analysis.build import analyse
from analysis.load import cache, load, load_from
from analysis.load.cache import cache_path
from analysis.load.columns import COLUMNS
from analysis.load.exporting import dictionary, export, exported
from analysis.report.methods import methods_paragraph
from tensloradist.errors import UserError
from tensloradist.results import schema
from tensloradist.results.bundle import write_bundle
from tensloradist.results.layout import sweep_folder
from tensloradist.results.schema import Condition, Manifest


def small(folder, **more):
    for row in ("lora", "att tucker"):
        for seed in range(2):
            folder.add(row, seed, 0.5 + 0.1 * seed, **more)
    folder.write()


def renamed(folder, name, change=lambda manifest: None):
    """A second sweep over the same runs, by another name."""
    manifest = json.loads((sweep_folder(folder.root, "s") / f"{folder.digest}.json").read_text())
    manifest["name"] = name
    change(manifest)
    put_manifest(folder.root, Manifest.model_validate(manifest))


@pytest.mark.parametrize("state", ["finished", "missing", "failed", "diverged"])
def test_every_frame_has_all_columns_of_their_types(folder, state):
    small(folder, state=state)
    for _ in range(2):  # read, then from the cache
        frame = load("s", folder.root).frame
        assert list(frame.columns) == list(COLUMNS)
        assert {name: str(frame[name].dtype) for name in COLUMNS} == {n: c.type for n, c in COLUMNS.items()}
        assert set(frame["state"]) == {state} and len(frame) == 4


def test_the_cache_gives_the_same_frame_and_is_not_trusted_when_damaged_or_stale(folder):
    small(folder)
    first = load("s", folder.root).frame
    path = cache_path(folder.root)
    assert path.exists()
    pd.testing.assert_frame_equal(load("s", folder.root).frame, first)
    for damage in (b"", b"PAR1 not parquet", path.read_bytes()[:-20]):
        path.write_bytes(damage)
        pd.testing.assert_frame_equal(load("s", folder.root).frame, first)
    other = pd.read_parquet(path).assign(score=0.99)
    other.to_parquet(path)  # by other code: it does not say what made it
    pd.testing.assert_frame_equal(load("s", folder.root).frame, first)
    path.unlink()
    pd.testing.assert_frame_equal(load("s", folder.root).frame, first)


def test_rows_read_by_other_code_or_another_schema_are_not_used(folder, monkeypatch, tmp_path):
    small(folder)
    first = load("s", folder.root).frame
    path = cache_path(folder.root)
    table = pyarrow.parquet.read_table(path)
    place = table.column_names.index("score")
    marked = table.set_column(place, "score", pyarrow.array([0.125] * len(table)))
    pyarrow.parquet.write_table(marked.replace_schema_metadata(table.schema.metadata), path)
    assert set(load("s", folder.root).frame["score"]) == {0.125}, "it is used while nothing has changed"
    makers = {"schema.py", "publish.py", "records.py", "standing.py", "columns.py", "outcomes.py", "cache.py"}
    assert makers == {p.name for p in cache.MAKERS}
    other = tmp_path / "schema.py"
    other.write_text("# another version\n" + Path(schema.__file__).read_text())
    monkeypatch.setattr(cache, "MAKERS", tuple(other if p.name == "schema.py" else p for p in cache.MAKERS))
    pd.testing.assert_frame_equal(load("s", folder.root).frame, first)


def test_an_edited_manifest_is_refused(folder):
    small(folder)
    path = sweep_folder(folder.root, "s") / f"{folder.digest}.json"
    path.write_text(path.read_text().replace('"seed":1', '"seed":7'))
    with pytest.raises(UserError, match="the manifest was edited after it was written"):
        load("s", folder.root)


def test_a_sweep_from_before_a_field_existed_is_joined(folder):
    """Absent, and today's default for what was then, are one identity; another value is another."""
    small(folder)

    def today(manifest, **adapter):
        for run in manifest["runs"]:
            run["spec"]["adapter"] |= {"alpha": None, "fused": False, "rslora": False, **adapter}
            run["spec"]["backbone"] |= {"quantization": None, "random_init": False}

    renamed(folder, "t", today)
    assert len(load_from(["s", "t"], folder.root).frame) == 4
    renamed(folder, "u", lambda manifest: today(manifest, alpha=16))
    with pytest.raises(UserError, match=r"adapter.alpha is not set and 16.0; report on them separately"):
        load_from(["s", "u"], folder.root)


def test_a_file_that_changes_under_the_cache_is_read_again(folder):
    small(folder)
    load("s", folder.root)
    run = next(iter(folder.runs))
    path = folder.root / "runs" / run / "result.json"
    before = path.stat()
    text = path.read_text()
    path.write_text(text.replace('"score":0.5', '"score":0.4').replace('"score": 0.5', '"score": 0.4'))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    frame = load("s", folder.root).frame.set_index("run_id")
    assert frame.loc[run, "score"] == 0.4 and path.stat().st_size == before.st_size
    path.unlink()
    assert load("s", folder.root).frame.set_index("run_id").loc[run, "state"] == "missing"


def test_the_cache_may_be_unwritable(folder, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("analysis.load.cache.entry_path", lambda kind, key: tmp_path / "file" / kind / key)
    small(folder)
    assert len(load("s", folder.root).frame) == 4


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"schema_version": 99}', "schema_version 99"),
        ("not json", "is damaged (not JSON"),
        ("[1, 2]", "not list"),
        ('{"schema_version": 1, "run_id": "x"}', "is damaged (state: Field required)"),
    ],
)
def test_files_that_are_not_results_are_listed(folder, content, says):
    small(folder)
    run = next(iter(folder.runs))
    (folder.root / "runs" / run / "result.json").unlink()
    (folder.root / "runs" / run / "result.json").write_text(content)
    loaded = load("s", folder.root)
    assert len(loaded.broken) == 1 and says in loaded.broken[0]
    state = "newer" if "99" in content else "broken"
    assert (loaded.frame["state"] == state).sum() == 1
    assert any("Left out" in warning and says in warning for warning in analyse(loaded).warnings)


def test_a_result_of_another_run_is_listed(folder):
    small(folder)
    first, second = list(folder.runs)[:2]
    target = folder.root / "runs" / first / "result.json"
    target.unlink()
    target.write_bytes((folder.root / "runs" / second / "result.json").read_bytes())
    assert "does not belong here" in load("s", folder.root).broken[0]


def test_several_sweeps_share_their_runs(folder):
    small(folder)
    renamed(folder, "t")
    loaded = load_from(["s", "t"], folder.root)
    assert loaded.name == "s + t" and len(loaded.frame) == 4 and len(analyse(loaded).blocks) == 1


def test_a_bundle_and_the_folder_it_was_made_of(folder, tmp_path):
    small(folder)
    (manifest,) = load("s", folder.root).manifests
    bundle = tmp_path / "s.bundle.tar.gz"
    write_bundle(folder.root, manifest, folder.digest, bundle)
    alone = load_from([str(bundle)], tmp_path / "nowhere")
    pd.testing.assert_frame_equal(alone.frame, load("s", folder.root).frame)
    assert alone.root is None
    both = load_from([str(bundle), "s"], folder.root)
    assert len(both.frame) == 4 and len(both.manifests) == 1


def _change_condition(manifest):
    manifest["conditions"][1]["tolerance"] = 0.5


def _change_epochs(manifest):
    for run in manifest["runs"]:
        run["spec"]["optimizer"]["epochs"] = 7


def _change_data(manifest):
    for run in manifest["runs"]:
        run["spec"]["task"]["fingerprint"] = "other"


def _change_protocol(manifest):
    for run in manifest["runs"]:
        run["spec"]["protocol"] = "official"


def _change_adapter(manifest):
    for run in manifest["runs"]:
        run["spec"]["adapter"]["scale"] = 2.0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_change_condition, "'isoparameter r=4' differs in tolerance"),
        (_change_epochs, "optimizer.epochs is 1 and 7"),
        (_change_data, "task.fingerprint is"),
        (_change_protocol, 'protocol is "sound" and "official"'),
        (_change_adapter, "adapter.scale is 1.0 and 2.0"),
    ],
)
def test_sweeps_that_mean_different_things_by_one_name_are_refused(folder, change, says):
    small(folder)
    renamed(folder, "t", change)
    with pytest.raises(UserError, match="sweeps 's' and 't'") as refused:
        load_from(["s", "t"], folder.root)
    assert says in str(refused.value)


def test_two_different_sweeps_of_one_name_are_refused(folder, tmp_path):
    small(folder)
    (manifest,) = load("s", folder.root).manifests
    bundle = tmp_path / "s.bundle.tar.gz"
    write_bundle(folder.root, manifest, folder.digest, bundle)
    folder.add("qkv tucker", 0)
    folder.write()
    with pytest.raises(UserError, match="different sweeps, both named 's'"):
        load_from([str(bundle), "s"], folder.root)
    with pytest.raises(UserError, match="no sweep given"):
        load_from([], folder.root)


def test_exports_have_all_values_and_their_dictionary(folder, tmp_path):
    small(folder)
    folder.add("qkv tucker", 0, state="missing")
    folder.write()
    frame = load("s", folder.root).frame
    assert set(dictionary()) == set(frame.columns) and all(column["meaning"] for column in dictionary().values())
    data = json.loads(exported(frame, "json"))
    assert [run["score"] for run in data["runs"]] == [None if pd.isna(s) else s for s in frame["score"]]
    assert data["columns"] == dictionary()
    written = export(frame, "csv", tmp_path / "runs.csv")
    assert [path.name for path in written] == ["runs.csv", "runs.columns.csv"]
    pd.testing.assert_series_equal(pd.read_csv(written[0])["score"], frame["score"], check_exact=True)
    assert list(pd.read_csv(written[1])["column"]) == list(COLUMNS)
    export(frame, "parquet", tmp_path / "runs.parquet")
    back = pd.read_parquet(tmp_path / "runs.parquet").astype({n: c.type for n, c in COLUMNS.items()})
    pd.testing.assert_frame_equal(back, frame)


def test_the_methods_paragraph_says_what_was_done_and_no_more(folder):
    small(folder)
    text = methods_paragraph(analyse(load("s", folder.root)))
    assert "2 seeds per setting" in text and "Student's t intervals" in text and "BCa" not in text
    assert "chosen" not in text and "interquartile" not in text and "exact" in text and "isoparameter" not in text
    for seed in range(12):
        folder.add("lora", seed, 0.5 + 0.01 * seed, rate=1e-2)
    folder.write()
    text = methods_paragraph(analyse(load("s", folder.root)))
    assert "chosen by its mean validation score" in text and "learning_rate 0.001 / learning_rate 0.01" in text


def test_nothing_finished_has_no_method(folder):
    small(folder, state="missing")
    analysis = analyse(load("s", folder.root))
    assert "nothing to describe" in methods_paragraph(analysis)
    assert any("None of 4 runs has finished" in warning for warning in analysis.warnings)


def test_another_condition_definition_is_kept(folder):
    folder.conditions.append(Condition(name="isorank r=8", kind="isorank", rank=8))
    small(folder)
    renamed(folder, "t", lambda manifest: manifest["conditions"].pop())
    assert [c.name for c in load_from(["s", "t"], folder.root).conditions] == [c.name for c in folder.conditions]
