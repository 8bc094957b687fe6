"""docs/tasks.md describes every registered task: its fields, labels and metrics as the code has them."""

from documentation import ROOT

from tensloradist.spec import TaskSpec
from tensloradist.tasks.digits import CLASSES
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


def test_the_fields_named_are_fields():
    assert {"split_seed", "train_examples", "augmentation", "max_length", "data"} <= TaskSpec.model_fields.keys()
