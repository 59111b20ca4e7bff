"""rankcell pretrain"""


def pretrain() -> None:
    """Train."""
