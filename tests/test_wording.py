"""Numbers in messages."""

from tensloradist.wording import counted


def test_a_noun_agrees_with_its_number():
    said = [counted(1, "run"), counted(0, "run"), counted(10_000, "run"), counted(1, "process"), counted(2, "process")]
    assert said == ["1 run", "0 runs", "10,000 runs", "1 process", "2 processes"]
