"""Language modelling: files as users write them, what the loss covers, and a real run that learns."""

import json

import numpy as np
import pytest
import torch

from tensloradist import tasks
from tensloradist.backbones.decoders import IGNORED
from tensloradist.errors import UserError
from tensloradist.evaluation import evaluate_run
from tensloradist.identity import resolve
from tensloradist.results.execute import execute
from tensloradist.results.layout import RunFolder
from tensloradist.spec import RunSpec, TaskSpec
from tensloradist.tasks.examples import language_backbone, language_folder
from tensloradist.tasks.preprocessing import tokenizer_of
from tensloradist.training import train


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TENSLORADIST_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def backbone(tmp_path):
    return language_backbone(tmp_path)


def loaded(path, backbone, protocol="sound", **fields):
    return tasks.load(TaskSpec(name="causal_lm", data=str(path), **fields), backbone, protocol)


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_the_targets_are_the_answer_and_the_end_of_text(tmp_path, backbone):
    rows = [{"prompt": f"q{i}: ", "answer": "a" * (i % 4 + 1)} for i in range(20)]
    path = write(tmp_path / "rows.jsonl", "\n".join(json.dumps(row) for row in rows))
    part = loaded(path, backbone).train
    batch = part.batch(np.arange(len(part)), None)
    tokenizer = tokenizer_of(backbone)
    width, kept = batch["input_ids"].shape[1], batch["targets"].shape[1]
    for row, name in enumerate(part.ids):
        source = rows[int(name.split("-")[1])]
        ids = batch["input_ids"][row][batch["attention_mask"][row].bool()]
        assert tokenizer.decode(ids) == f"{source['prompt']}{source['answer']}</s>"
        targets = batch["targets"][row]
        assert tokenizer.decode(targets[targets != IGNORED]) == f"{source['answer']}</s>"
        assert part.terms[row] == (targets != IGNORED).sum() == len(source["answer"]) + 1
        for place in (targets != IGNORED).nonzero().flatten().tolist():  # each is what follows its position
            assert batch["input_ids"][row, width - kept + place + 1] == targets[place]


def test_text_lines_are_prompt_tab_answer_or_an_answer_alone(tmp_path, backbone):
    path = write(tmp_path / "rows.txt", "".join(f"Frage {i}\tä{i}\r\n" for i in range(10)) + "only an answer\n\n" * 10)
    task = loaded(path, backbone)
    assert sorted(len(p) for p in (task.train, task.validation, task.test)) == [2, 2, 16]
    tokenizer = tokenizer_of(backbone)
    shown = set()
    for part in (task.train, task.validation, task.test):
        batch = part.batch(np.arange(len(part)), None)
        shown |= {tokenizer.decode(row[row != IGNORED]) for row in batch["targets"]}
    assert shown == {f"ä{i}</s>" for i in range(10)} | {"only an answer</s>"}


def test_the_same_bytes_are_other_data_as_text(tmp_path):
    text = '{"prompt": "a", "answer": "b"}\n'
    files = [write(tmp_path / f"rows{ending}", text) for ending in (".jsonl", ".txt")]
    fingerprints = {tasks.task_named("causal_lm").fingerprint(TaskSpec(name="causal_lm", data=str(f))) for f in files}
    assert len(fingerprints) == 2


def test_a_long_prompt_loses_its_beginning_and_never_the_answer(tmp_path, backbone):
    rows = [{"prompt": "x" * 200 + "end", "answer": "yes"}] * 10
    task = loaded(write(tmp_path / "r.jsonl", "\n".join(map(json.dumps, rows))), backbone, max_length=10)
    assert tokenizer_of(backbone).decode(task.train.batch([0], None)["input_ids"][0]) == "xxxendyes</s>"
    with pytest.raises(UserError, match=r"r\.jsonl:1: an answer of 4 tokens leaves no room for its prompt within 4"):
        loaded(tmp_path / "r.jsonl", backbone, max_length=4)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.jsonl", '{"prompt": "a"}', "a.jsonl:1: no field 'answer'; it has prompt"),
        ("a.jsonl", '\n{"prompt": 3, "answer": "b"}', "a.jsonl:2: prompt = 3"),
        ("a.jsonl", "[1]", "a.jsonl:1: not a line of JSON"),
        ("a.jsonl", '{"prompt": "a", "answer": ""}', "the answer is empty"),
        ("a.txt", "prompt\t", "a.txt:1: the answer is empty"),
        ("a.txt", " \n", "no examples"),
        ("a.csv", "a,b", "neither .jsonl nor .txt"),
    ],
)
def test_mistakes_name_the_line(tmp_path, backbone, name, text, says):
    with pytest.raises(UserError) as caught:
        loaded(write(tmp_path / name, text), backbone)
    assert says in str(caught.value)


def test_folders_need_train_and_test(tmp_path, backbone):
    with pytest.raises(UserError, match="no such file or folder"):
        loaded(tmp_path / "absent", backbone)
    folder = language_folder(tmp_path).data
    (tmp_path / "language" / "test.txt").write_text("a\tb\n")
    with pytest.raises(UserError, match=r"both test\.jsonl and test\.txt"):
        loaded(folder, backbone)
    (tmp_path / "language" / "test.txt").unlink()
    (tmp_path / "language" / "test.jsonl").unlink()
    with pytest.raises(UserError, match=r"no test\.jsonl and no test\.txt"):
        loaded(folder, backbone)


def spec(task, backbone, **fields):
    data = {
        "backbone": backbone.model_dump(),
        "task": task.model_dump(),
        "adapter": {"grouping": "qkv_depth", "ranks": 4},
        "optimizer": {"epochs": 2, "batch_size": 8, "learning_rate": 3e-2, "schedule": "constant"},
        "compute": {"device": "cpu", "threads": 1, "micro_batch": fields.pop("micro_batch", None)},
    }
    return resolve(RunSpec.model_validate({**data, **fields}))


def test_a_run_learns_reports_and_is_evaluated_again(tmp_path, backbone):
    run = spec(language_folder(tmp_path), backbone)
    result = execute(run, tmp_path / "results", train).result
    assert result.metrics.primary == "exact_match" and 0 <= result.metrics.score <= 1
    folder = RunFolder(tmp_path / "results", run.run_id)
    lines = [json.loads(line) for line in (folder.attempt(1) / "metrics.jsonl").read_text().splitlines()]
    perplexities = [line["validation"]["perplexity"] for line in lines if "validation" in line]
    assert perplexities[1] < perplexities[0] < 259
    again = evaluate_run(folder.path)
    assert again["metrics"]["perplexity"] == pytest.approx(result.metrics.test["perplexity"], rel=1e-5)
    assert result.trainable_parameters == result.adapter_parameters, "a language model has no head to train"


def test_the_loss_is_the_mean_over_answer_tokens_however_the_batch_is_cut(tmp_path, backbone):
    """Answers are of unequal length: a mean of micro-batches' means would be another loss."""
    task = language_folder(tmp_path)
    found = {}
    for micro_batch in (None, 3):
        folder = tmp_path / str(micro_batch) / "0001"
        folder.mkdir(parents=True)
        train(spec(task, backbone, micro_batch=micro_batch), folder)
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        found[micro_batch] = [line["train_loss"] for line in lines if "train_loss" in line]
    np.testing.assert_allclose(found[None], found[3], rtol=1e-5)
    assert abs(found[None][0] - np.log(259)) < 0.3, "in nats a token"


def test_the_official_protocol_takes_the_lowest_perplexity(tmp_path, backbone):
    folder = tmp_path / "0001"
    folder.mkdir()
    task = language_folder(tmp_path)
    result = train(spec(task, backbone, protocol="official", adapter={"method": "lora"}), folder)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    seen = [line["validation"]["perplexity"] for line in lines if "validation" in line]
    assert result.metrics.test["perplexity"] == min(seen) < max(seen)
    assert torch.isfinite(torch.tensor(seen)).all()
