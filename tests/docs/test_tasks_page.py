"""docs/tasks.md describes every registered task: its fields, labels and metrics as the code has them."""

from documentation import ROOT

from tensloradist.spec import TaskSpec
from tensloradist.tasks import language, task_named, text
from tensloradist.tasks.digits import CLASSES
from tensloradist.tasks.examples import image_folder
from tensloradist.tasks.named_images import HUB_IMAGES
from tensloradist.tasks.text import GLUE_TASKS

PAGE = (ROOT / "docs" / "tasks.md").read_text()
FIRST_TABLE = PAGE.partition("\n\nThe first metric")[0]
ROWS = {cells[0].strip("`"): cells[1:] for cells in (
    [cell.strip() for cell in line[1:-1].split("|")] for line in FIRST_TABLE.splitlines() if line.startswith("| `")
)}  # fmt: skip


def test_every_task_is_described():
    """Of a fresh process: tests of plugins add others to the registry."""
    from tensloradist.tasks import CAUSAL_LM, DIGITS, IMAGE_TASKS, TEXT_TASKS

    assert list(ROWS) == [task.name for task in (*IMAGE_TASKS, *TEXT_TASKS, CAUSAL_LM, DIGITS)]


def test_glue_is_described_as_it_is_read():
    for name, entry in GLUE_TASKS.items():
        _, fields, labels, metric, also = ROWS[name]
        assert fields == ", ".join(f"`{field}`" for field in entry.fields)
        assert labels == (", ".join(entry.classes) or "a number from 0 to 5")
        assert ", ".join(filter(None, [metric, also])) == ", ".join(entry.metric_names)


def test_the_image_sets_are_described_as_they_are_read():
    for name, entry in HUB_IMAGES.items():
        data, _, labels, metric, also = ROWS[name]
        assert data == f"`{entry.name}`" and labels.startswith(f"{entry.classes} ")
        assert (metric, also) == ("accuracy", "")
        split = next(line for line in PAGE.splitlines() if line.count("|") == 5 and f"`{name}`" in line).split("|")
        assert split[3].strip() == ("validation" if entry.validation else "20 % of train")
    assert ROWS["digits"][2] == f"the digits {', '.join(map(str, CLASSES))}"


def test_the_parts_are_as_the_page_says(tmp_path):
    fractions = {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in (
        line[1:-1].split("|") for line in PAGE.partition("## Which part is tested")[2].splitlines() if line[:1] == "|"
    )}  # fmt: skip
    glue = fractions[f"GLUE: {', '.join(f'`{name}`' for name in GLUE_TASKS)}"]
    assert glue[:2] == _of_train(1 - text.VALIDATION_FRACTION, text.VALIDATION_FRACTION)
    assert fractions["`causal_lm`, a single file"] == [f"{100 * part:g} %" for part in language.FRACTIONS]
    assert fractions["`causal_lm`, `train` and `test` files"][:2] == _of_train(
        1 - language.VALIDATION_FRACTION, language.VALIDATION_FRACTION
    )
    task = image_folder(tmp_path)
    assert "(60/20/20 % of images/)" in task_named("images").parts(task, "sound")
    assert fractions["`images`, no parts"] == ["60 %", "20 %", "20 %"] == fractions["`digits`"]
    (tmp_path / "images").rename(tmp_path / "train")
    (tmp_path / "images").mkdir()
    (tmp_path / "train").rename(tmp_path / "images" / "train")
    alone = task_named("images").parts(task, "sound")
    assert "train: 64 % of train/, validation: 16 % of train/, test: 20 % of train/" in alone
    assert fractions["`images` with `train` alone"] == ["64 % of train", "16 % of train", "20 % of train"]


def _of_train(*fractions):
    return [f"{100 * fraction:g} % of train" for fraction in fractions]


def test_the_fields_named_are_fields():
    assert {"split_seed", "train_examples", "augmentation", "max_length", "data"} <= TaskSpec.model_fields.keys()
