"""States of a model that are no numbers: refused wherever a model is run."""

from rankcell.errors import ModelError
from rankcell.wording import option


def require_finite(is_finite: bool, precision: str) -> None:
    """ModelError unless the states that were computed in `precision` are finite numbers."""
    if not is_finite:
        advice = "look at the weights" if precision == "fp32" else f"choose {option('precision', 'fp32')}"
        raise ModelError(f"the states of a cell are not finite numbers in {precision}: {advice}")
