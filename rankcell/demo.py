"""The whole road on real cells that ship with scanpy: vocabulary, tokens, embeddings, UMAP, a deletion screen, pictures, a page."""

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rankcell.model.options import AUTO
from rankcell.scores import IN_PLACE, TOWARD, Score, score_name
from rankcell.store import RUN_FILES, Own, atomic_path, inside, require_new

POOLS = {"mean": "mean over genes", "cls": "CLS token", "first": "first gene"}
LABELS, PAGE = "bulk_labels", "report.html"
COUNTS, EMBEDDINGS, UMAP, RANKED = "pbmc68k.h5ad", "embeddings.h5ad", "umap.png", "ranked_genes.png"
VOCABULARY, TOKENS = "vocabulary", "tokens.dataset"
CELLS_PER_STATE, LEAST_SHARE = 25, 0.2


@dataclass(frozen=True)
class Direction:
    """One screen: cells of `start` whose genes are deleted, watched for movement toward `goal`."""

    name: str
    start: str
    goal: str
    start_words: str
    goal_words: str

    @property
    def table(self) -> str:
        """The file of the ranked genes."""
        return f"ranked_{self.name}.csv"

    @property
    def score(self) -> str:
        return score_name(TOWARD, "cell", self.goal, IN_PLACE)


DIRECTIONS = (
    Direction("b_to_monocyte", "CD19+ B", "CD14+ Monocyte", "B cells", "monocytes"),
    Direction("monocyte_to_b", "CD14+ Monocyte", "CD19+ B", "monocytes", "B cells"),
)


@dataclass
class DemoResults:
    """Results of the demo's steps, for its page."""

    directions: tuple[Direction, ...] = DIRECTIONS
    cells_per_state: int = CELLS_PER_STATE
    vocab: Any = None
    tokens: Any = None
    model: dict[str, Any] = field(default_factory=dict)
    knn: dict[str, float] = field(default_factory=dict)
    ranked: dict[str, Any] = field(default_factory=dict)
    follows: dict[str, list[tuple[str, float, float, float, float]]] = field(default_factory=dict)
    higher: dict[str, dict[str, tuple[int, int]]] = field(default_factory=dict)
    n_genes: dict[str, int] = field(default_factory=dict)
    n_rows: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0


def run_demo(
    out: str | os.PathLike = "rankcell-demo",
    *,
    device: str = AUTO,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the demo's folder `out` and return the path of its report.html.

    The folder holds `pbmc68k.h5ad` (counts), `vocabulary/`, `tokens.dataset/`, `embeddings.h5ad`, a results folder and a
    ranked table per screen, `umap.png`, `ranked_genes.png` and `report.html`.
    """
    import time

    from rankcell.model.devices import choose_device

    choose_device(device)
    own = _own()
    require_new(out, force=force, marker=PAGE, own=own)
    began = time.perf_counter()
    steps = _Steps(progress)
    results = DemoResults()
    with atomic_path(out, force=force, marker=PAGE, own=own) as folder:
        folder.mkdir()
        adata = _cells_to_tokens(folder, results, steps)
        _embed(folder, adata, results, device, steps)
        for direction in DIRECTIONS:
            _screen(folder, direction, results, device, steps)
            results.higher[direction.name] = higher_by_counts(adata, direction, results.ranked[direction.name].symbols)
        _pictures(folder, adata, results)
        steps.reach(99)
        results.seconds = time.perf_counter() - began
        from rankcell.report.pages.demo_page import demo_page

        (folder / PAGE).write_text(demo_page(folder, results), encoding="utf-8")
        steps.reach(100)
    return Path(out) / PAGE


def _own() -> tuple[Own, ...]:
    """Names of the files of the demo's folder, at any depth."""
    from rankcell.perturb.run.prepared import OWN
    from rankcell.tokens.token_folder import DATASET_FILES
    from rankcell.vocab.folder import FILES

    files = (PAGE, COUNTS, EMBEDDINGS, UMAP, RANKED, *(f"{d.table}{end}" for d in DIRECTIONS for end in ("", ".json")))
    screens = [name for d in DIRECTIONS for name in inside(d.name, (*RUN_FILES, *OWN))]
    return (*files, *inside(VOCABULARY, FILES), *inside(TOKENS, DATASET_FILES), *screens)


class _Steps:
    """Progress of the whole demo in hundredths, from that of its parts."""

    def __init__(self, progress: Callable[[int, int], None] | None):
        self._progress, self._at = progress, 0

    def reach(self, hundredth: int) -> None:
        self._at = hundredth
        if self._progress:
            self._progress(hundredth, 100)

    def part(self, upto: int) -> Callable[[int, int], None]:
        start = self._at

        def tick(done: int, total: int, detail: str = "") -> None:
            self.reach(start + (upto - start) * done // max(1, total))

        return tick


def _cells_to_tokens(folder: Path, results: DemoResults, steps: _Steps) -> Any:
    from rankcell import datasets
    from rankcell.counts.vocabulary.build_vocab import build_vocab
    from rankcell.counts.vocabulary.options import NewVocabulary
    from rankcell.tokens.cells import tokenize_cells
    from rankcell.vocab.catalog import dictionaries

    adata = datasets.pbmc68k()
    steps.reach(8)
    adata.write_h5ad(folder / COUNTS)
    ids = dictionaries() / "pbmc68k.symbols.tsv"
    results.vocab = build_vocab([folder / COUNTS], folder / VOCABULARY, ids=ids, new=NewVocabulary("pbmc68k", "human"))
    steps.reach(12)
    results.tokens = tokenize_cells(folder / COUNTS, results.vocab, obs=LABELS, out=folder / TOKENS)
    steps.reach(16)
    return adata


def _embed(folder: Path, adata: Any, results: DemoResults, device: str, steps: _Steps) -> None:
    import anndata as ad
    import scanpy as sc

    from rankcell.assess import knn_accuracy
    from rankcell.embed.embed_cells import embed_in_memory
    from rankcell.embed.stores import uns_entry
    from rankcell.model.options import Compute

    embeddings = embed_in_memory(folder / TOKENS, "demo", pool=list(POOLS), compute=Compute(device), progress=steps.part(24))
    results.model = embeddings.meta
    adata.obsm.update(embeddings.obsm())
    adata.uns["rankcell"] = uns_entry(embeddings.result())
    labels = adata.obs[LABELS].astype(str).to_numpy()
    normalised = ad.AnnData(adata.X.copy())
    sc.pp.normalize_total(normalised)
    sc.pp.log1p(normalised)
    sc.pp.pca(normalised, n_comps=50, random_state=0)
    results.knn = {p: knn_accuracy(embeddings.columns[f"{p}_layer-2"], labels) for p in POOLS}
    results.knn["pca"] = knn_accuracy(normalised.obsm["X_pca"], labels)
    steps.reach(28)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # umap says that a seed makes it run on one thread: we seed on purpose
        for i, pool in enumerate(POOLS):
            sc.pp.neighbors(adata, use_rep=f"X_rankcell_{pool}_layer-2", random_state=0, metric="cosine")
            sc.tl.umap(adata, random_state=0)
            adata.obsm[f"X_umap_{pool}"] = adata.obsm.pop("X_umap").astype(np.float32)
            steps.reach(28 + 6 * (i + 1))
    adata.write_h5ad(folder / EMBEDDINGS)


def detected_genes(tokens: Any, rows: np.ndarray, vocab: Any, least_share: float) -> list[str]:
    """Ids of the genes that at least `least_share` of the cells at `rows` show, in vocabulary order."""
    n = np.zeros(vocab.n_ids, np.int64)
    for i in rows:
        n[tokens.genes(int(i))] += 1
    return [g for g, t in zip(vocab.genes, vocab.tokens, strict=True) if n[t] >= least_share * len(rows)]


def _screen(folder: Path, d: Direction, results: DemoResults, device: str, steps: _Steps) -> None:
    from rankcell import get
    from rankcell.model.options import Compute
    from rankcell.perturb import Delete, Perturber, ScreenConfig, Subset
    from rankcell.stats.options import RankOptions
    from rankcell.stats.rank import edit_ranking
    from rankcell.stats.ranked_tables import write_ranked

    rows = np.flatnonzero(results.tokens.obs(LABELS).astype(str) == d.start)[:CELLS_PER_STATE]
    genes = detected_genes(results.tokens, rows, results.vocab, LEAST_SHARE)
    config = ScreenConfig(Delete(genes), f"{LABELS}={d.start}", f"{LABELS}={d.goal}", Subset(CELLS_PER_STATE))
    perturber = Perturber("demo", Compute(device))
    perturber.perturb(results.tokens, folder / d.name, config, progress=steps.part(steps._at + 26))
    table = get.screen_df(folder / d.name)
    ranking = edit_ranking(table, RankOptions(d.score))
    write_ranked(ranking.table, folder / d.table, facts=ranking.facts)
    results.follows[d.name] = [_follows(table, s) for s in ("cos_genes", str(Score.parse(d.score).plain))]
    results.ranked[d.name], results.n_genes[d.name], results.n_rows[d.name] = ranking.table, len(genes), len(table)


def higher_by_counts(adata: Any, d: Direction, ranked: Any, n: int = 15) -> dict[str, tuple[int, int]]:
    """Counts of the first `n`, the last `n` and all of the ranked symbols: (how many have the higher mean of counts / n_counts in the
    screened cell type than in the other, how many there are). A check that needs no model."""
    share = adata.X.multiply(1 / adata.obs["n_counts"].to_numpy()[:, None]).tocsr()
    labels = adata.obs[LABELS].astype(str).to_numpy()
    mean = {x: np.asarray(share[labels == x].mean(0)).ravel() for x in (d.start, d.goal)}
    up = dict(zip(adata.var_names, mean[d.start] > mean[d.goal], strict=True))
    parts = {"top": ranked[:n], "bottom": ranked[-n:], "all": ranked}
    return {name: (sum(bool(up[s]) for s in part), len(part)) for name, part in parts.items()}


def _follows(table: Any, score: str) -> tuple[str, float, float, float, float]:
    """Effect size and rank dependence of a score: (score, median effect plain and in place, Spearman correlation with the rank plain and in place)."""
    from rankcell.stats import effect_of, rank_spearman

    pair = (score, str(Score.parse(score).with_part(IN_PLACE)))
    return score, *(float(effect_of(table, s).abs().median()) for s in pair), *(rank_spearman(table, s) for s in pair)


def _pictures(folder: Path, adata: Any, results: DemoResults) -> None:
    from rankcell.report.pictures.embedding_panels import draw_embeddings
    from rankcell.report.pictures.figures import new_figure, save
    from rankcell.report.pictures.ranked_genes import draw_ranked

    titles = {p: f"{words} (kNN accuracy {results.knn[p]:.2f})" for p, words in POOLS.items()}
    umap = draw_embeddings({p: adata.obsm[f"X_umap_{p}"] for p in POOLS}, adata.obs[LABELS].astype(str), titles=titles)
    note = results.model.get("model_note")
    umap.suptitle(note or "", fontsize=9, x=0.01, ha="left")
    save(umap, folder / UMAP)
    ranked_figure = new_figure(11, 6.4)
    for ax, d in zip(ranked_figure.subplots(1, 2), DIRECTIONS, strict=True):
        draw_ranked(results.ranked[d.name], by=d.score, n=24, title=f"Genes lost in place by {d.start_words}", ax=ax)
    ranked_figure.suptitle(note or "", fontsize=9, x=0.01, ha="left")
    save(ranked_figure, folder / RANKED)
