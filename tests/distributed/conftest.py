"""What every group of processes needs."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def backbone_is_cached():
    """Pretrained once, and not by every process of every group."""
    from tensloradist.backbones import digits_vit

    digits_vit.description()
