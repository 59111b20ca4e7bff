"""Settings of this process: how much is said while a long job runs. A leaf."""

import numbers

from rankcell.errors import SettingsError

__all__ = ["Settings", "settings"]

_LEVELS = {0: "nothing but errors", 1: "notes, and bars on a terminal or in a notebook", 2: "also lines where there is neither"}


class Settings:
    """Settings of long jobs, `rankcell.settings`: what they say, in Python and at the command line.

    Attributes
    ----------
    verbosity
        0: nothing but errors. 1, the default: notes (RankcellWarning), and progress bars on a terminal or in a notebook. 2: also
        lines of progress where there is neither, as in a log; the command line writes these at 1 already.

    Raises
    ------
    SettingsError
        For a level that is none of these, and for a setting of another name.
    """

    __slots__ = ("_verbosity",)

    def __init__(self) -> None:
        self._verbosity = 1

    @property
    def verbosity(self) -> int:
        """Level of notes and progress: 0, 1 or 2. SettingsError for any other value."""
        return self._verbosity

    @verbosity.setter
    def verbosity(self, level: int) -> None:
        if isinstance(level, bool) or not isinstance(level, numbers.Integral) or level not in _LEVELS:
            raise SettingsError(f"verbosity is {level!r}; {', '.join(f'{n} ({words})' for n, words in _LEVELS.items())}")
        self._verbosity = int(level)

    def __setattr__(self, name: str, value: object) -> None:
        if name not in ("verbosity", "_verbosity"):
            raise SettingsError(f"rankcell.settings has no '{name}'; it has verbosity")
        super().__setattr__(name, value)

    def __repr__(self) -> str:
        return f"Settings(verbosity={self._verbosity})"


settings = Settings()
