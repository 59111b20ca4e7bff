"""Screen: a finished perturbation screen, where a user stands: its rows, its ranking, its affected genes, as a table or an AnnData."""

import functools
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rankcell.errors import RankcellError
from rankcell.fact_list import html_of_facts, text_of_facts
from rankcell.stats.options import RankOptions
from rankcell.wording import one_line, python_verb

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

__all__ = ["Screen"]

_ROWS = 300_000  # of a large screen that are read to show how far its scores follow the rank


class Screen:
    """A finished screen: its rows, its ranking and its affected genes.

    Parameters
    ----------
    folder
        The results folder that rc.tl.perturb or `rankcell perturb` has written. Every function that takes such a folder takes a Screen.
    """

    def __init__(self, folder: "str | os.PathLike | Screen"):
        from rankcell.export import open_screen

        self._folder = open_screen(folder.folder if isinstance(folder, Screen) else folder)

    @classmethod
    def temporary(cls, run: "Callable[[Path], object]") -> "Screen":
        """Run a screen into a temporary folder, which is removed with the object, or when Python ends.

        Parameters
        ----------
        run
            Called with the path of the results folder, into which it writes the screen.

        Returns
        -------
        Screen
            The screen that `run` has written.
        """
        place = tempfile.mkdtemp(prefix="rankcell-screen-")
        try:
            folder = Path(place) / "screen"
            run(folder)
            screen = cls(folder)
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)
            raise
        weakref.finalize(screen, shutil.rmtree, place, ignore_errors=True)
        return screen

    @property
    def folder(self) -> Path:
        """The results folder; of a screen without `out` a temporary one, which is removed with this object."""
        return self._folder.folder

    @property
    def manifest(self) -> dict[str, Any]:
        """Model, cells, settings and, of a fast screen, its audit: plain JSON."""
        return self._folder.manifest

    def __fspath__(self) -> str:
        return os.fspath(self.folder)

    def df(self, *, obs: bool = False) -> "pd.DataFrame":
        """Read the table of the screen: see rc.get.screen_df.

        Parameters
        ----------
        obs
            Also the cell columns that the screen carries.

        Returns
        -------
        DataFrame
            One row per cell and edit.
        """
        from rankcell.get import screen_df

        return screen_df(self._folder, obs=obs)

    def rank(
        self,
        *,
        score: str | None = RankOptions.score,
        mode: str | Sequence[str] = RankOptions.mode,
        donor: str | None = RankOptions.donor,
        cells: Any = RankOptions.cells,
        controls: str | Sequence[str] | None = RankOptions.controls,
        against: Any = RankOptions.against,
        min_cells: int | None = RankOptions.min_cells,
        seed: int = RankOptions.seed,
    ) -> "pd.DataFrame":
        """Rank the edits by their mean effect and test them: see rc.tl.rank_edits.

        Parameters
        ----------
        score, mode, donor, cells, controls, against, min_cells, seed
            As for rc.tl.rank_edits.

        Returns
        -------
        DataFrame
            One row per edit, strongest effect first, tested.
        """
        from rankcell.stats.rank import edit_ranking

        return edit_ranking(self, RankOptions(score, mode, donor, cells, controls, against, min_cells, seed)).df()

    def affected(self, *, which: str = "mean") -> "pd.DataFrame":
        """Read the affected genes: see rc.get.affected_df.

        Parameters
        ----------
        which
            `mean`, `top` or `raw`.

        Returns
        -------
        DataFrame
            A row per perturbed target and affected gene; with `top` and `raw` also per cell.

        Raises
        ------
        OutputError
            When the screen was run without them.
        """
        from rankcell.get import affected_df

        return affected_df(self._folder, which=which)

    @python_verb()
    def audit(self) -> "pd.DataFrame":
        """Read the audit of a fast screen.

        Returns
        -------
        DataFrame
            One row per edit that was run: `cell_id`, `edit`, `rank`, `n_tokens`, `sampled` (drawn at random), then each score and
            `<score>_predicted`. `manifest["audit"]` sums them up.

        Raises
        ------
        OutputError
            For a screen by the exact method.
        """
        return self._folder.audit().to_pandas()

    @python_verb()
    def pairs(self) -> "pd.DataFrame":
        """Read the pairs of genes of a fast screen with epistasis.

        Returns
        -------
        DataFrame
            A row per pair and cell: `cell_id`, `first`, `second`, `symbols`, `exact`, `sampled`, and of each score that of both genes and its
            `_interaction`, what both do beyond the sum.

        Raises
        ------
        OutputError
            When it was run without.
        """
        return self._folder.epistasis().to_pandas()

    def adata(self, score: str | Sequence[str] | None = None, *, by: str = "edits") -> "AnnData":
        """Convert the screen into an AnnData of edits or of cells: see rc.get.screen_adata.

        Parameters
        ----------
        score, by
            As for rc.get.screen_adata.

        Returns
        -------
        AnnData
            Edits x affected genes, edits x scores, or cells x edits.
        """
        from rankcell.get import screen_adata

        return screen_adata(self._folder, score, by=by)

    def _facts(self) -> list[tuple[str, str]]:
        """(name, value) of the screen in short: what was run, and how good it is."""
        manifest, settings = self.manifest, self.manifest["settings"]
        facts = [
            ("edits", f"{settings['kind']} {settings['genes']}"),
            ("cells", f"{manifest['n_cells']:,}" + (f" of {settings['start']}" if settings.get("start") else "")),
            ("rows", f"{manifest['n_rows']:,}"),
            ("model", f"{settings['model']}, layer {settings['layer']}"),
            ("method", settings.get("method", "exact")),
        ]
        if settings.get("toward"):
            facts.append(("toward", ", ".join(settings["toward"])))
        if settings.get("model_note"):
            facts.append(("note", settings["model_note"]))
        return facts + self._quality

    @functools.cached_property
    def _quality(self) -> list[tuple[str, str]]:
        """Audit, edits to rank, and rank dependence of the scores, in the sentences of the command line; nothing where files are lost."""
        from rankcell.stats.screen_lines import audit_lines, rank_lines

        try:
            lines, notes = rank_lines(self._folder, _ROWS)
            lines = audit_lines(self._folder) + lines
        except (RankcellError, OSError):
            return []
        facts = [line.partition(": ") for line in lines]
        return [(name, value) for name, _, value in facts] + [("note", one_line(text)) for text in notes]

    def __repr__(self) -> str:
        return text_of_facts("Screen", self._facts())

    def _repr_html_(self) -> str:
        return html_of_facts("Screen", self._facts())
