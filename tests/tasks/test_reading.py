"""Text files as people have them: what each line means, what is refused by file and line, and which inputs are new."""

import json
import os
from pathlib import Path

import pytest

from tensloradist import backbones
from tensloradist.errors import UserError
from tensloradist.spec import TaskSpec
from tensloradist.tasks import load, task_named, text_rows
from tensloradist.tasks.examples import language_backbone, text_backbone
from tensloradist.tasks.glue import GLUE_TASKS
from tensloradist.tasks.preprocessing import tokenizer_of


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TENSLORADIST_CACHE", str(tmp_path / "cache"))


def lines(*rows):
    return b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows)


def sst2(folder, train, validation=None):
    folder.mkdir(exist_ok=True)
    (folder / "train.jsonl").write_bytes(train)
    (folder / "validation.jsonl").write_bytes(train if validation is None else validation)
    return TaskSpec(name="sst2", data=str(folder))


def read(task):
    rows, fingerprint = text_rows.read(task, GLUE_TASKS[task.name])
    return rows["train"], fingerprint


def words(task):
    """What a fingerprint says of reading, after the content's hash."""
    found = task_named(task.name).fingerprint(task)
    return set(found.split("+")[1:])


CAT = {"sentence": "cat", "label": 1}
MARK = b"\xef\xbb\xbf"


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        (lines(CAT, CAT), ["cat", "cat"]),
        (MARK + lines(CAT, CAT), ["cat", "cat"]),
        (MARK + lines(CAT) + MARK + lines(CAT), ["cat", "cat"]),  # two such files, one after the other
        (lines(CAT, CAT).replace(b"\n", b"\r\n"), ["cat", "cat"]),
        (lines(CAT, CAT).replace(b"\n", b"\r"), ["cat", "cat"]),
        (lines(CAT, CAT)[:-1], ["cat", "cat"]),
        (b"\n" + lines(CAT) + b" \t\n\xc2\xa0\n" + lines(CAT), ["cat", "cat"]),
        ('{"sentence": "a\u2028b\u2029c\x85d", "label": 0}\n'.encode(), ["a\u2028b\u2029c\x85d"]),
        (lines({"sentence": "a\0b\ud83d\ude00", "label": 0}), ["a\0b😀"]),
        (lines({"sentence": "", "label": 0}), [""]),
        (lines({"sentence": "2024-01-10", "label": 0}, {"sentence": "2024-01-11", "label": 0}), None),
        (lines({"sentence": "12:30", "label": 0}, {"sentence": "true", "label": 0}), ["12:30", "true"]),
        (lines({**CAT, "x": 1}, {**CAT, "x": "one"}, b'{"x": NaN, "x": [], "sentence": "a", "label": 1}'), None),
    ],
)
def test_a_line_means_what_json_says(tmp_path, content, texts):
    if texts is None:
        texts = [json.loads(line)["sentence"] for line in content.decode().splitlines()]
    rows, _ = read(sst2(tmp_path / "data", content))
    assert rows.texts == [texts] and all(type(text) is str for text in rows.texts[0])


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b'{"sentence": "a\\ud83d", "label": 1}', r"train\.jsonl:2: sentence has \\ud83d as character 2.*remove it"),
        (b'{"sentence": "a\xed\xa0\xbd", "label": 1}', r"train\.jsonl:2: not UTF-8 text .*byte 16.*save the file as"),
        (b'{"sentence": "a", "label": 1, "label": 0}', r"train\.jsonl:2: the field 'label' is there twice"),
        (b'{"sentence": "a", "label": NaN}', r"train\.jsonl:2: label nan; expected an integer in 0\.\.1"),
        (b'{"sentence": "a", "label": 1.0}', r"train\.jsonl:2: label 1\.0; expected an integer"),
        (b'{"sentence": "a", "label": "1"}', r"train\.jsonl:2: label '1'; expected an integer"),
        (b'{"sentence": "a", "label": true}', r"train\.jsonl:2: label True; expected an integer"),
        (b'{"sentence": "a", "label": 100000000000000000000}', r"train\.jsonl:2: label 1000.*out of range"),
        (b'{"sentence": "a", "label": 1, "idx": [1]}', r"train\.jsonl:2: idx = \[1\]; expected a number or a text"),
        (b'{"sentence": "a", "label": 1, "x": ' + b"[" * 99_999 + b"]" * 99_999 + b"}", r"jsonl:2: .*nested too deep"),
        (b'{"sentence": "a", "label": 1} {}', r"train\.jsonl:2: not a line of JSON .*Extra data"),
    ],
)
def test_a_line_that_cannot_be_meant_is_named(tmp_path, line, says):
    task = sst2(tmp_path / "data", lines(CAT) + line + b"\n")
    with pytest.raises(UserError, match=says):
        task_named("sst2").fingerprint(task)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["sst2", "causal_lm"])
def test_wide_text_is_refused_with_a_way_to_convert_it(tmp_path, encoding, name):
    content = '{"sentence": "cat", "label": 1}\n'.encode(encoding)
    task = sst2(tmp_path / "data", content)
    if name == "causal_lm":
        task = TaskSpec(name=name, data=str(tmp_path / "data" / "train.jsonl"))
    with pytest.raises(UserError, match=r"train\.jsonl: not UTF-8 text but UTF-16.*iconv"):
        task_named(name).fingerprint(task)


def test_a_line_is_named_far_into_a_file_and_other_columns_may_change_there(tmp_path):
    padded = lines(*({**CAT, "note": number, "pad": "z" * 60_000} for number in range(200)))  # 12 MB
    task = sst2(tmp_path / "data", padded + lines({**CAT, "note": "x"}, {**CAT, "label": 7}), lines(CAT))
    with pytest.raises(UserError, match=r"train\.jsonl:202: label 7, out of range"):
        task_named("sst2").fingerprint(task)
    rows, _ = read(sst2(tmp_path / "data", padded + lines({**CAT, "note": "x"}), lines(CAT)))
    assert len(rows.ids) == 201


def named(*names):
    return lines(*({**CAT, "idx": name} for name in names))


DATES = lines(*({"sentence": f"2024-01-{day}", "label": day % 2} for day in range(10, 14)))
PLAIN = lines(*({"sentence": "cat", "label": number % 2} for number in range(4)))


@pytest.mark.parametrize(
    ("train", "validation", "expected"),
    [
        (PLAIN, PLAIN, set()),
        (named(3, 1), named(0, 2), set()),
        (PLAIN + DATES, DATES + PLAIN, set()),  # of several kinds together, they were left as they are
        (PLAIN, DATES, {"dates"}),  # the columns' types were those of the training file
        (named("a", "b"), named("c", None), set()),
        (named("2024-01-10", "b"), named("c"), {"idx"}),
        (named(1, 2.5), named(3), {"idx"}),
        (named(1, 2), named("007"), {"idx"}),
        (named(10**20, 1), named(3), {"idx"}),
    ],
)
def test_an_input_that_was_read_otherwise_has_another_fingerprint(tmp_path, train, validation, expected):
    task = sst2(tmp_path / "data", train, validation)
    assert words(task) == expected
    assert read(task)[1] == task_named("sst2").fingerprint(task)


def test_dates_that_fill_a_later_piece_of_a_large_file_were_read_otherwise(tmp_path, monkeypatch):
    monkeypatch.setattr(text_rows, "_PIECE", 100)  # bytes: three lines each
    alternating = [line for pair in zip(PLAIN.splitlines(), DATES.splitlines(), strict=True) for line in pair]
    assert words(sst2(tmp_path / "alternating", lines(*alternating * 3), PLAIN)) == set()
    assert words(sst2(tmp_path / "apart", PLAIN + DATES * 3 + PLAIN, PLAIN)) == {"dates"}


def test_the_fingerprints_of_plain_files_are_what_they_were(tmp_path):
    """As the version before line-by-line reading gave them: runs on such files keep their ids."""
    rows = [
        {"sentence1": f"Grüße {i}", "sentence2": "2024-01-10 and more", "label": i % 2, "idx": i} for i in range(20)
    ]
    pairs = [{"prompt": f"<b>{i}: ", "answer": f"</b> {i} <|im_start|> a"} for i in range(20)]
    plain = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    marked = MARK + "".join(json.dumps(row) + "\r\n" for row in rows).encode()
    (tmp_path / "pairs.jsonl").write_bytes(lines(*pairs))
    (tmp_path / "pairs.txt").write_bytes("".join(f"Frage {i}\tÄ {i}\tmit Tab\r\n" for i in range(20)).encode())
    (tmp_path / "folder").mkdir()
    for part in ("train", "test"):
        (tmp_path / "folder" / f"{part}.jsonl").write_bytes(lines(*pairs))
    found = {name: sst2(tmp_path / name, content) for name, content in (("plain", plain), ("marked", marked))}
    found = {name: task_named("mrpc").fingerprint(task) for name, task in found.items()}
    for name in ("pairs.jsonl", "pairs.txt", "folder"):
        found[name] = task_named("causal_lm").fingerprint(TaskSpec(name="causal_lm", data=str(tmp_path / name)))
    assert found == {
        "plain": "700c26a6a5e9f372e0b69f812193a2f4",
        "marked": "5d8a4f8fd3f3f4ae4023806671cd5278",
        "pairs.jsonl": "a1de24401e77c973aa9b4020878475a1",
        "pairs.txt": "154b30a39beaf87b41e3effe90d7b725",
        "folder": "a7b393b873f0067ee7d34d3342efa32d",
    }


def causal(path, content):
    path.write_bytes(content)
    return TaskSpec(name="causal_lm", data=str(path))


def answers_and_inputs(task, backbone):
    """Each example's tokens as text, whole and from the answer on, in the order of the file."""
    loaded, tokenizer = load(task, backbone), tokenizer_of(backbone)
    found = {}
    for part in (loaded.train, loaded.validation, loaded.test):
        for index, name in enumerate(part.ids):
            batch = part.batch([index], None)
            answer = batch["targets"][0][batch["targets"][0] >= 0]
            found[int(name.split("-")[1])] = (tokenizer.decode(batch["input_ids"][0]), tokenizer.decode(answer))
    return [found[number] for number in sorted(found)]


def add_beginning(backbone, token="<s>"):
    """Let the tokenizer put a token before every text, as Llama's does."""
    from tokenizers import Tokenizer, processors

    path = os.path.join(backbone.name, "tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    tokenizer.post_processor = processors.TemplateProcessing(single=[token, "$A"], special_tokens=[(token, 1)])
    tokenizer.save(path)


def test_what_a_chat_template_has_put_there_is_not_put_there_again(tmp_path):
    backbone = language_backbone(tmp_path)
    add_beginning(backbone)
    plain, templated = {"prompt": "q", "answer": "yes"}, {"prompt": "<s>q", "answer": "yes</s>\n"}
    ended = {"prompt": "a</s>", "answer": "b"}  # an end of text within a conversation is the user's
    task = causal(tmp_path / "rows.jsonl", lines(*[plain, templated, ended] * 8))
    found = answers_and_inputs(task, backbone)
    assert found[:3] == [("<s>qyes</s>", "yes</s>")] * 2 + [("<s>a</s>b</s>", "b</s>")]
    assert words(task) == {"control_tokens"}
    with pytest.raises(UserError, match=r"r\.jsonl:1: the answer is only '</s>'"):
        load(causal(tmp_path / "r.jsonl", lines({"prompt": "q", "answer": "</s>"})), backbone)


@pytest.mark.parametrize(("before", "end"), [("<|endoftext|>", "<eot>"), ("<BOS>", "[EOS]"), ("word", "fin")])
def test_no_tokens_of_a_tokenizer_are_found_without_a_word_in_the_fingerprint(tmp_path, before, end):
    backbone = language_backbone(tmp_path)
    folder = Path(backbone.name)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        content = (folder / name).read_text()
        (folder / name).write_text(content.replace("</s>", end).replace("<s>", before))
    add_beginning(backbone, before)
    task = causal(tmp_path / "rows.jsonl", lines(*[{"prompt": f"{before}q", "answer": f"yes{end}"}] * 10))
    begun, ended = ({"control_tokens"}, 1) if before.startswith("<") else (set(), 2)
    assert words(task) == begun
    assert answers_and_inputs(task, backbone)[0] == (before * ended + "qyes" + end * ended, "yes" + end * ended)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (MARK + b"a\tb\n", {"marks"}),
        (b"a\tb<|im_end|>\n", {"control_tokens"}),
        (b"<bos>a\tb\n", {"control_tokens"}),
        (b"<|im_start|>user\ta\n", {"control_tokens"}),  # of any tokenizer's tokens, since none is known here
        (b"a\tb<turn|>\n", {"control_tokens"}),
        (b"a[EOS]\tb\n", {"control_tokens"}),
        (b"[INST] user [/INST]\ta <b>b</b>\n", set()),
        (b"a\tb\tc\r\n\r\n\xc2\xa0\n", set()),
    ],
)
def test_lines_of_text_that_were_read_otherwise_have_another_fingerprint(tmp_path, content, expected):
    assert words(causal(tmp_path / "rows.txt", content * 10)) == expected


def test_lines_of_text_with_marks_tabs_and_rare_ends(tmp_path):
    backbone = language_backbone(tmp_path)
    content = MARK + "a\tb\tc\r\n\n\u00a0\nd\u2028e\n".encode() + b"f\tg\n" * 20
    found = answers_and_inputs(causal(tmp_path / "rows.txt", content), backbone)
    assert found[:3] == [("ab\tc</s>", "b\tc</s>"), ("</s>d\u2028e</s>", "d\u2028e</s>"), ("fg</s>", "g</s>")]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b'{"prompt": "a", "answer": "\\udc80"}', r"rows\.jsonl:2: answer has \\udc80 as character 1"),
        (b'{"prompt": "a", "answer": "b", "answer": "c"}', r"rows\.jsonl:2: the field 'answer' is there twice"),
        (b'{"prompt": "\xff", "answer": "b"}', r"rows\.jsonl:2: not UTF-8 text"),
        (b"[" * 99_999, r"rows\.jsonl:2: .*nested too deep"),
    ],
)
def test_a_prompt_or_answer_that_cannot_be_meant_is_named(tmp_path, line, says):
    task = causal(tmp_path / "rows.jsonl", lines({"prompt": "a", "answer": "b"}, line))
    with pytest.raises(UserError, match=says):
        task_named("causal_lm").fingerprint(task)


def test_an_empty_text_is_refused_where_the_tokenizer_adds_no_token_and_read_where_it_does(tmp_path):
    rows = [CAT, {**CAT, "label": 0}] * 20
    task = sst2(tmp_path / "data", lines(*rows), b"\n" + lines(*rows, {"sentence": "", "label": 1}))
    with pytest.raises(UserError, match=r"validation\.jsonl:42: the text is empty.*remove the line"):
        load(task, language_backbone(tmp_path))
    test = load(task, text_backbone(tmp_path)).test
    assert test.batch([len(test) - 1], None)["attention_mask"].sum() == 2  # [CLS] and [SEP]


def edit(path, **fields):
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"pad_token_id": 259}, r"config\.json: pad_token_id 259 .*vocab_size 259 allows 0\.\.258; .* or to null"),
        ({"pad_token_id": -2}, r"config\.json: pad_token_id -2 "),
        ({"pad_token_id": None, "eos_token_id": 300}, r"config\.json: eos_token_id \(for padding.* 300 "),
    ],
)
def test_padding_outside_the_vocabulary_is_refused_before_anything_is_built(tmp_path, fields, says):
    backbone = language_backbone(tmp_path)
    edit(tmp_path / "llama" / "config.json", **fields)
    with pytest.raises(UserError, match=says):
        backbones.shape_of(backbone)


def test_a_padding_token_of_minus_one_is_none(tmp_path):
    backbone = language_backbone(tmp_path)
    plain = backbones.fingerprint(backbone)
    task = sst2(tmp_path / "data", lines(*[CAT, {"sentence": "a dog", "label": 0}] * 20))
    config = tmp_path / "llama" / "config.json"
    batches = {}
    for pad in (None, -1):
        edit(config, pad_token_id=pad)
        batch = load(task, backbone).train.batch([0, 1], None)
        batches[pad] = batch["input_ids"].tolist()
        logits = backbones.family_of(model := backbones.load(backbone, 2)).logits(model, batch)
        assert logits.isfinite().all()
    assert batches[-1] == batches[None]
    assert backbones.fingerprint(backbone).endswith("+padding") and "+" not in plain


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    task = sst2(tmp_path / "data", lines(*[CAT, {"sentence": "dog", "label": 0}] * 20))
    backbone = text_backbone(tmp_path)
    size = json.loads((tmp_path / "bert" / "config.json").read_text())["vocab_size"]
    edit(tmp_path / "bert" / "config.json", vocab_size=7)
    with pytest.raises(UserError, match=r"train\.jsonl:1: .*'cat', token 7, but the vocab_size .* is 7"):
        load(task, backbone.model_copy(update={"random_init": True}))
    edit(tmp_path / "bert" / "config.json", vocab_size=size, pad_token_id=size)
    with pytest.raises(UserError, match=rf"config\.json: pad_token_id {size} is not in the vocabulary"):
        load(task, backbone.model_copy(update={"random_init": True}))
    edit(tmp_path / "bert" / "config.json", pad_token_id=0)
    edit(tmp_path / "bert" / "tokenizer_config.json", pad_token="<none>")
    with pytest.raises(UserError, match=rf"its tokenizer pads with '<none>', token {size}, but the vocab_size"):
        load(task, backbone.model_copy(update={"random_init": True}))
