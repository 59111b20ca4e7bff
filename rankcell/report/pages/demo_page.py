"""The page that the demo ends with: what was done, what came out, and what each number means in plain words."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rankcell.report.pages import page as p
from rankcell.report.pages.answer import small, toy_line
from rankcell.stats.summary import LEVEL

if TYPE_CHECKING:
    import pandas as pd


def demo_page(folder: Path, demo: Any) -> str:
    """The HTML of the demo's report, about what `demo` (rankcell.demo.DemoResults) holds; pictures are read from `folder`."""
    from rankcell import __version__

    sections = [
        _answer(demo),
        _tokens(demo),
        _embeddings(folder, demo),
        _screen(folder, demo),
        _limits(demo),
        _own_file(),
    ]
    where = "a CUDA device" if demo.model["device"] != "cpu" else f"a processor with {demo.model['threads']} threads"
    return p.page(
        "rankcell: from counts to a perturbation screen",
        "700 real blood cells (peripheral blood, 10x Genomics, as shipped with scanpy) went in; what you see here was computed from their counts "
        f"in {demo.seconds:.0f} seconds on {where}.",
        *sections,
        footer=f"rankcell {__version__}, model '{demo.model['model']}', vocabulary '{demo.model['vocabulary']}' ({demo.model['vocabulary_hash'][:12]}).",
        first=toy_line(demo.model.get("model_note")),
    )


def _answer(demo: Any) -> str:
    """The strongest genes of either direction, by FDR or plainly none, before everything else."""
    rows, lines = [], []
    for d in demo.directions:
        ranked = demo.ranked[d.name]
        fdr = ranked["matched_fdr"]
        tested, below = int(fdr.notna().sum()), int((fdr < LEVEL).sum())
        count = f"{below:,} of {tested:,} genes tested stand out (FDR below {LEVEL:g})" if below else "nothing stands out"
        lines.append(f"{d.start_words} toward {d.goal_words}: {count if below or not tested else f'{count} (FDR >= {fdr.min():.2g})'}.")
        for r in ranked.head(3).to_dict("records"):
            rows.append(
                (
                    f"{d.start_words} to {d.goal_words}",
                    r["symbols"],
                    f"{1e3 * r['effect']:+.2f}",
                    f"{1e3 * r['sem']:.2f}",
                    r["n_cells"],
                    small(r["matched_fdr"]),
                )
            )
    return p.section(
        "The answer",
        p.paragraph("Which genes, when they are taken out of a blood cell, move it toward another cell type in the eyes of this model?"),
        p.bullets(lines),
        p.table(["cells", "gene lost", "movement", "s.e.", "n cells", "FDR"], rows),
        p.paragraph(
            "The three strongest of either direction. Movement: cosine with the mean of the other cell type after the loss, less before, in units of 0.001, mean over cells in "
            "place (no token attends to the lost gene, all others keep their positions); s.e.: its standard error, here and everywhere on this page. FDR (false discovery rate): of "
            "all genes with one this low or lower, the share expected by chance; a gene is compared with others of like rank in the same cells. One donor, 25 cells a type: a "
            "demonstration of the road, and no finding."
        ),
    )


def _tokens(demo: Any) -> str:
    tokens, vocab = demo.tokens, demo.vocab
    row = tokens.genes(0)[:12]
    genes = [int(vocab.gene_of_token[t]) for t in row]
    rows = [(i, vocab.label(g), vocab.genes[g], f"{vocab.medians[g]:.2f}") for i, g in enumerate(genes)]
    return p.section(
        "1. Counts become a ranked list of genes",
        p.paragraph(
            f"A cell's counts are divided by its total and by each gene's median over the cells that show it; the genes are then listed from the highest value "
            f"down. So a gene stands high when it is high for that gene, not when it is abundant everywhere. The {len(tokens)} cells have "
            f"{int(tokens.n_genes.min())} to {int(tokens.n_genes.max())} genes each out of {len(vocab)}. The model reads the list and nothing else."
        ),
        p.paragraph(f"The top of the first cell, {tokens.cell_ids[0]} ({tokens.obs('bulk_labels')[0]}):"),
        p.table(["rank", "gene", "Ensembl id", "median (per 10,000)"], rows),
    )


def _embeddings(folder: Path, demo: Any) -> str:
    names = {"mean": "mean over genes", "cls": "CLS token", "first": "first gene", "pca": "PCA (50) of log-normalised counts, no model"}
    rows = [(names[k], f"{v:.3f}") for k, v in demo.knn.items()]
    return p.section(
        "2. The model turns each list into a vector",
        p.paragraph(
            "A small BERT, trained to guess hidden genes of such lists and never shown a label, gives every gene of a cell a state (a vector of "
            f"{_width(demo)} numbers). A cell's embedding is the mean of them, or the state of the CLS token that stands in front, or the state of the "
            "top-ranked gene. Each dot is a cell; the colours are cell types that the model has not seen."
        ),
        p.picture(
            (folder / "umap.png").read_bytes(),
            alt="UMAP of three kinds of cell embedding, coloured by cell type",
            caption="UMAP of the three embeddings. Distances between far groups mean little in a UMAP; which cells lie together does.",
        ),
        p.paragraph(
            "In numbers: the share of cells whose own label is also the commonest among their 15 nearest neighbours (cosine; five-fold cross-validation). "
            "PCA of the counts is the plain alternative. With 700 cells one standard error is about 0.015: smaller differences say nothing."
        ),
        p.table(["embedding", "kNN accuracy"], rows),
    )


def _width(demo: Any) -> int:
    return int(demo.model.get("width", 0))


def _screen(folder: Path, demo: Any) -> str:
    tables = []
    for d in demo.directions:
        ranked = demo.ranked[d.name]
        columns = ["gene", "cells", "mean rank", "in place", "s.e.", "plain"]
        up, down = ranked.head(10), ranked.tail(10)[::-1]
        blocks = [
            f"<h3>{p.text(f'{d.start_words}: loss moves them toward {d.goal_words}')}</h3>",
            p.table(columns, _rows(up)),
            f"<h3>{p.text(f'{d.start_words}: loss moves them away from {d.goal_words}')}</h3>",
            p.table(columns, _rows(down)),
        ]
        tables.append("".join(blocks))
    return p.section(
        "3. Deleting genes in silico",
        p.paragraph(
            f"The first {demo.cells_per_state} B cells and the first {demo.cells_per_state} monocytes of the file lost, one at a time, every gene that at least a fifth of them "
            f"show: {demo.n_genes['b_to_monocyte']} and {demo.n_genes['monocyte_to_b']} genes, {sum(demo.n_rows.values()):,} edited cells, each scored plainly and in place. "
            "The bars say how far the mean state of the remaining genes moved toward the mean of the other cell type: cosine after, less cosine before."
        ),
        p.picture(
            (folder / "ranked_genes.png").read_bytes(),
            alt="Bar charts of the genes whose loss moves B cells toward monocytes and monocytes toward B cells",
            caption="Red: losing the gene moves the cell toward the other type. Blue: losing it moves the cell away. In place: nothing attends to the lost gene, the others keep their positions.",
        ),
        p.note(
            "Why in place? Deleting a token does two things: the gene is gone, and every gene below it moves up one position. Only the first is about the gene. "
            "The table shows how far each score follows the gene's mere rank in the list (Spearman correlation, median over cells): a score near 1 or -1 orders genes by "
            "where they stood, whatever they are. The size is the median over all edits."
        ),
        p.table(["cells", "score", "size, plain", "size, in place", "follows rank, plain", "follows rank, in place"], _follow_rows(demo)),
        p.paragraph(
            "The ends of both lists, in units of 0.001 of cosine, means over the cells that show the gene with their standard error (s.e.); 'plain' is the same deletion with positions closing "
            "up, mean rank 0 the top of the list. B cells and monocytes are the labels 'CD19+ B' and 'CD14+ Monocyte'. A gene shown by five of 25 cells, or one whose standard error is as "
            "large as its effect, stands where it does by chance as likely as not."
        ),
        p.beside(*tables),
        p.bullets([_check(d, demo.higher[d.name]) for d in demo.directions]),
    )


def _check(d: Any, higher: dict[str, tuple[int, int]]) -> str:
    """Check of the genes at either end of the list by the counts alone."""
    (top, n), (bottom, m), (total, every) = higher["top"], higher["bottom"], higher["all"]
    return (
        f"Held against the counts of the same cells: of the {n} genes whose loss moves {d.start_words} most toward {d.goal_words}, {top} are higher in {d.start_words} than in "
        f"{d.goal_words}; of the {m} at the other end, {bottom} ({bottom / m:.0%}); of all {every} tested, {total / every:.0%}. A share near that of all genes means that this end "
        "of the list names no cell type."
    )


def _follow_rows(demo: Any) -> list[tuple[object, ...]]:
    names = {"cos_genes": "shift of all other genes (1 - cos_genes)"}
    return [
        (d.start_words, names.get(score, f"movement toward {d.goal_words}"), f"{a:.1e}", f"{b:.1e}", f"{c:+.2f}", f"{e:+.2f}")
        for d in demo.directions
        for score, a, b, c, e in demo.follows[d.name]
    ]


def _rows(ranked: "pd.DataFrame") -> list[tuple[object, ...]]:
    return [
        (r.symbols, r.n_cells, f"{r.mean_rank:.0f}", f"{1e3 * r.effect:+.2f}", f"{1e3 * r.sem:.2f}", f"{1e3 * r.plain_effect:+.2f}")
        for r in ranked.itertuples()
    ]


def _limits(demo: Any) -> str:
    return p.section(
        "4. What this does not show",
        p.bullets(
            [
                "The model was trained on these same 700 cells (630 of them; 70 held out for its accuracy figures): good enough to show the road, far too little to trust for biology.",
                "A deletion in silico removes a word from a list. It says what the model has come to expect together, not what a cell would do without the gene.",
                "25 cells of one donor are not 25 experiments: the FDR above speaks of these cells, and of no other donor.",
            ]
        ),
    )


def _own_file() -> str:
    return p.section(
        "5. Now with your own file",
        p.paragraph(
            "Any h5ad with raw counts will do, genes named by Ensembl id or symbol. The demo model knows 765 blood genes; for real work use a large "
            "model's folder (Geneformer's, say) and its vocabulary."
        ),
        p.commands(
            [
                "# tokens, embeddings and a screen with the demo model",
                "rankcell tokenize mine.h5ad -o mine.dataset --vocab demo --obs cell_type",
                "rankcell embed    mine.h5ad -o mine_embedded.h5ad --model demo --pool mean --pool cls",
                "rankcell perturb  mine.h5ad -o mine_screen --model demo --genes CD74,LYZ,CTSS --start 'cell_type=monocyte' --toward 'cell_type=B cell'",
                "",
                "# with Geneformer: its dictionaries once, then its folder as the model",
                "rankcell vocab import --tokens token_dictionary_gc104M.pkl --medians gene_median_dictionary_gc104M.pkl \\",
                "    --symbols gene_name_id_dict_gc104M.pkl -o geneformer-v2",
                "rankcell embed    mine.h5ad -o mine_embedded.h5ad --model Geneformer-V2-104M --vocab geneformer-v2",
            ]
        ),
        p.paragraph("In Python, inside scanpy:"),
        p.commands(
            [
                "import rankcell as rc, scanpy as sc",
                'rc.tl.embed(adata, model="demo", pool="mean")      # adata.obsm["X_rankcell"]',
                'sc.pp.neighbors(adata, use_rep="X_rankcell"); sc.tl.umap(adata)',
                'screen = rc.tl.perturb(adata, rc.Delete(["CD74", "LYZ"]), model="demo")',
                "rc.pl.ranked_genes(screen.rank())",
            ]
        ),
    )
