"""A page begins with the answer: the question, what was asked, what stands out by the numbers of `rankcell stats`, and why to doubt it."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from hand_screens import hand_table, made_table, write_screen

import rankcell as rc
from rankcell.cli.main import main


def change_manifest(folder, settings=None, **facts):
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["settings"] |= settings or {}
    (folder / "manifest.json").write_text(json.dumps(manifest | facts))


def page_of(folder, tmp_path, *options):
    assert main(["plot", str(folder), "-o", str(tmp_path / "r.html"), "--force", *options]) == 0
    return (tmp_path / "r.html").read_text()


def section(page, heading):
    return re.search(f"<h2>{heading}</h2>(.*?)</section>", page, re.S)[1]


@pytest.fixture
def standing_out(tmp_path):
    """60 edits in 12 cells, of which one is ten thousand times what its like are."""
    table = made_table(60, 12)
    name = table["edit"].iloc[30]
    at = table["edit"] == name
    table.loc[at, "cos_genes_in_place"] = 1 - 10_000 * (1 - table.loc[at, "cos_genes_in_place"])
    return write_screen(tmp_path / "s", table, symbols=table.attrs["symbols"]), table.attrs["symbols"][table.loc[at, "genes"].iloc[0]]


def test_the_hits_are_those_of_the_statistics(standing_out, tmp_path):
    folder, symbol = standing_out
    answer = section(page_of(folder, tmp_path), "The answer")
    ranked = rc.tl.rank_edits(str(folder), score="cos_genes_in_place")
    called = ranked[ranked["matched_fdr"] < 0.05]
    assert symbol in called["symbols"].tolist()
    assert f"{len(called):,} of {ranked['matched_fdr'].notna().sum():,} edits tested stand out" in answer
    row = called[called["symbols"] == symbol].iloc[0]
    cells = re.search(f"<td>{symbol}</td>(.*?)</tr>", answer)[1]
    assert re.findall(r">([^<>]+)</td>", cells) == [
        f"{row.effect:+.2e}",
        f"{row['sem']:.1e}",
        f"{row.n_cells}",
        "more",
        f"{row.matched_fdr:.1e}",
    ]
    assert "of all edits with an FDR this low or lower, the share that is expected to be there by chance" in answer


def test_nothing_stands_out_is_said_with_the_least_fdr(tmp_path):
    table = made_table(60, 12)
    table["cos_genes_in_place"] = 1 - np.exp(np.random.default_rng(3).normal(-9, 0.3, len(table)))
    folder = write_screen(tmp_path / "s", table, symbols=table.attrs["symbols"])
    answer = section(page_of(folder, tmp_path), "The answer")
    least = rc.tl.rank_edits(str(folder), score="cos_genes_in_place")["matched_fdr"].min()
    assert least >= 0.05 and f"none has an FDR below 0.05 (FDR &gt;= {least:.2g})" in answer


def test_too_few_edits_for_a_test(tmp_path):
    folder = write_screen(tmp_path / "s", hand_table())
    assert "There is no test of these edits" in section(page_of(folder, tmp_path), "The answer")


def test_question_and_facts(standing_out, tmp_path):
    folder, _ = standing_out
    facts = {"names": ["blood.h5ad"], "genes": 1000, "genes_known": 120}
    change_manifest(folder, {"start": "cell_type=B", "model_hash": "0123456789abcdef"}, input=facts)
    page = page_of(folder, tmp_path)
    assert "cells with cell_type=B most when they are deleted, and which move cells with cell_type=B toward hot or cold?" in page
    answer = section(page, "The answer")
    for said in (
        "blood.h5ad",
        "12, cell_type=B",
        "not named: cells are taken for replicates",
        "small (sha256 0123456789ab), layer -2",
        "Toward hot",
    ):
        assert said in answer, said
    assert re.search(r"<td>date</td><td>\d{4}-\d\d-\d\d</td>", answer)
    assert "The model knows 120 of the input&#x27;s 1,000 genes" in section(page, "Before you believe it")


@pytest.mark.parametrize(
    ("settings", "facts", "line"),
    [
        ({}, {}, "Only 12 cells were screened"),
        ({}, {}, "Cells are taken for replicates"),
        (
            {},
            {"cropping": {"cells": 12, "cropped": 5, "genes": 200, "unread": 50, "most_genes": 9}},
            "5 of 12 cells have more genes than the model reads: 25%",
        ),
        ({"model_note": "a toy of three genes"}, {}, "A toy of three genes."),
    ],
)
def test_caveats(standing_out, tmp_path, settings, facts, line):
    change_manifest(standing_out[0], settings, **facts)
    assert line in section(page_of(standing_out[0], tmp_path), "Before you believe it")


def test_a_toy_is_called_so_in_the_first_line(standing_out, tmp_path):
    change_manifest(standing_out[0], {"model_note": "toy model: 3 genes"})
    body = page_of(standing_out[0], tmp_path).split("<main>")[1]
    assert body.startswith('<div class="note">Toy model: 3 genes.</div>')


def test_donors_of_the_statistics_are_named(standing_out, tmp_path):
    folder, _ = standing_out
    cells = sorted(pd.read_parquet(folder / "screen.parquet")["cell_id"].unique())
    pd.DataFrame({"cell_id": cells, "patient": [f"p{i % 6}" for i in range(len(cells))]}).to_csv(tmp_path / "cells.csv", index=False)
    assert main(["stats", str(folder), "-o", str(tmp_path / "t.csv"), "--donor", "patient", "--cells", str(tmp_path / "cells.csv")]) == 0
    page = page_of(folder, tmp_path, "--statistics", str(tmp_path / "t.csv"))
    assert "6 (column patient)" in section(page, "The answer") and "Cells are taken" not in page


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", 'x" onload="y', "a\nb\tc", "\u202egnp.exe", "$\\frac{1}{2}$", "`code`", "=HYPERLINK(1)"]
)
def test_hostile_names_are_text(tmp_path, name):
    table = hand_table()
    table["cell_id"] = table["cell_id"].replace("x", name)
    state = {c: c.replace("hot", name) for c in table.columns if "hot" in c}
    folder = write_screen(tmp_path / "s", table.rename(columns=state), symbols={"A": name, "B": "B", "C": "C"}, states=(name, "cold"))
    change_manifest(
        folder, {"model": name, "start": f"c={name}", "model_note": name}, input={"names": [name], "genes": 9, "genes_known": 9}
    )
    page = page_of(folder, tmp_path)
    assert "<script" not in page and '" onload="y' not in page and "\u202e" not in page
    for what in ("ranked", "heatmap", "rank", "explain"):
        more = ["--cell", name] if what == "explain" else []
        for ending in ("svg", "png"):
            assert main(["plot", str(folder), "-o", str(tmp_path / f"{what}.{ending}"), "--what", what, *more]) == 0


# What pictures take, and the toy's line above them


def test_ranked_edits_are_drawn_from_any_form(standing_out, tmp_path):
    from matplotlib import pyplot as plt

    folder, symbol = standing_out
    table = rc.get.screen_df(folder)
    ranked = rc.tl.rank_edits(str(folder))
    assert main(["stats", str(folder), "-o", str(tmp_path / "t.csv")]) == 0
    for source in (folder, str(folder), folder / "screen.parquet", table, ranked, tmp_path / "t.csv"):
        names = [t.get_text() for t in rc.pl.ranked_genes(source, n=5).get_yticklabels()]
        assert names[0] == symbol and names == ranked["symbols"][:5].tolist(), source
        assert symbol in [t.get_text() for t in rc.pl.volcano(source).texts], source
    plt.close("all")


@pytest.mark.parametrize("wrong", [np.zeros(3), 3, None, pd.DataFrame({"a": [1]}), "nowhere", ["a"]])
@pytest.mark.parametrize("draw", [rc.pl.ranked_genes, rc.pl.volcano, rc.pl.screen_heatmap, rc.pl.shift_by_rank, rc.pl.decomposition])
def test_what_is_no_screen_is_one_line(draw, wrong):
    with pytest.raises(rc.errors.RankcellError) as refused:
        draw(wrong)
    assert "\n" not in str(refused.value) and "--" not in str(refused.value)


def test_an_anndata_is_named_as_what_it_is():
    import anndata as ad

    for draw in (rc.pl.ranked_genes, rc.pl.volcano, rc.pl.screen_heatmap):
        with pytest.raises(rc.errors.InputError, match=r"found AnnData; perturb it first"):
            draw(ad.AnnData(np.zeros((2, 2), np.float32)))


def test_pictures_of_a_toy_say_so_in_their_first_line(standing_out, tmp_path):
    from matplotlib import pyplot as plt

    folder, _ = standing_out
    change_manifest(folder, {"model_note": "toy model: 3 genes"})
    for draw in (rc.pl.ranked_genes, rc.pl.volcano, rc.pl.screen_heatmap, rc.pl.shift_by_rank, rc.pl.decomposition):
        assert draw(folder).get_title(loc="left").split("\n")[0] == "toy model: 3 genes", draw
    assert rc.pl.explain_cell(folder, "c0").get_title(loc="left").startswith("toy model: 3 genes\n")
    plt.close("all")
    assert main(["plot", str(folder), "-o", str(tmp_path / "v.svg"), "--what", "volcano"]) == 0
    assert "toy model: 3 genes" in (tmp_path / "v.svg").read_text()


@pytest.fixture
def of_toy(standing_out):
    change_manifest(standing_out[0], {"model_note": "toy model: 3 genes"})
    return standing_out[0]


def test_the_line_of_a_toy_stands_above_the_legend(standing_out):
    """Long notes wrap, and a legend above the axes is not written over."""
    folder, _ = standing_out
    change_manifest(folder, {"model_note": "toy model: 765 genes, trained on 630 blood cells; for trying the tools, not for biology"})
    cell = rc.get.screen_df(folder)["cell_id"].iloc[0]
    n_legends = 0
    for ax in (rc.pl.explain_cell(folder, cell), rc.pl.decomposition(folder), rc.pl.shift_by_rank(folder)):
        figure = ax.figure
        figure.canvas.draw()
        title, legend = ax._left_title.get_window_extent(), ax.get_legend()
        assert "toy model" in ax.get_title(loc="left") and title.y0 >= ax.get_window_extent().y1
        if legend is not None:
            n_legends += 1
            assert not title.overlaps(legend.get_window_extent(figure.canvas.get_renderer()))
    assert n_legends >= 2


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet"])
def test_a_saved_ranking_of_a_toy_says_so_where_it_is_drawn(of_toy, tmp_path, capsys, ending):
    from matplotlib import pyplot as plt

    saved = tmp_path / f"t.{ending}"
    assert main(["stats", str(of_toy), "-o", str(saved)]) == 0
    assert capsys.readouterr().err == "rankcell: note: toy model: 3 genes\n"
    assert json.loads((tmp_path / f"t.{ending}.json").read_text())["model_note"] == "toy model: 3 genes"
    for draw in (rc.pl.ranked_genes, rc.pl.volcano):
        assert draw(saved).get_title(loc="left").split("\n")[0] == "toy model: 3 genes"
    plt.close("all")
    assert main(["plot", str(of_toy), "-o", str(tmp_path / "v.svg"), "--what", "volcano", "--statistics", str(saved)]) == 0
    assert "toy model: 3 genes" in (tmp_path / "v.svg").read_text()
    body = page_of(of_toy, tmp_path, "--statistics", str(saved)).split("<main>")[1]
    assert body.startswith('<div class="note">Toy model: 3 genes.</div>') and "Toy model: 3 genes." in section(body, "Before you believe it")


def test_every_table_of_a_toys_screen_says_so(of_toy):
    table = rc.get.screen_df(of_toy)
    assert table.attrs["model_note"] == "toy model: 3 genes"
    for source in (of_toy, rc.get.screen_df(of_toy), table[table["n_tokens"] > 0]):
        assert rc.tl.rank_edits(source).attrs["model_note"] == "toy model: 3 genes"
    assert rc.pl.shift_by_rank(table).get_title(loc="left").startswith("toy model: 3 genes")
    assert rc.pl.ranked_genes(rc.tl.rank_edits(table)).get_title(loc="left").startswith("toy model: 3 genes")


def test_affected_genes_of_a_toy_say_so(of_toy):
    n = 30
    pairs = {"edit": [f"e{i}" for i in range(n)], "genes": [f"e{i}" for i in range(n)], "affected": ["A"] * n, "n": [9] * n}
    table = pd.DataFrame(pairs | {"mean_cos": 1 - np.linspace(0.1, 0.2, n), "sd_cos": [0.01] * n})
    table.attrs["model_note"] = "toy model: 3 genes"
    assert rc.tl.rank_affected(table).attrs["model_note"] == "toy model: 3 genes"


def test_geneformers_tables_of_a_toy_say_so(of_toy, tmp_path, capsys):
    assert main(["stats", str(of_toy), "-o", str(tmp_path / "t.csv"), "--compat", "geneformer", "--mode", "mixture_model"]) == 0
    assert "toy model: 3 genes" in capsys.readouterr().err
    assert json.loads((tmp_path / "t.csv.json").read_text())["model_note"] == "toy model: 3 genes"


def test_of_another_model_nothing_is_said(standing_out, tmp_path, capsys):
    assert main(["stats", str(standing_out[0]), "-o", str(tmp_path / "t.csv")]) == 0
    assert capsys.readouterr().err == "" and "model_note" not in json.loads((tmp_path / "t.csv.json").read_text())
    assert rc.pl.ranked_genes(tmp_path / "t.csv").get_title(loc="left").count("\n") == 0
    page = page_of(standing_out[0], tmp_path, "--statistics", str(tmp_path / "t.csv"))
    assert not page.split("<main>")[1].startswith('<div class="note">')


@pytest.mark.parametrize("name", ["edits.parquet", "cells.parquet", "affected.parquet"])
def test_damaged_tables_are_one_line(standing_out, tmp_path, capsys, name):
    folder, _ = standing_out
    (folder / name).write_bytes(b"PAR1" + b"\0" * 64 + b"PAR1")
    assert main(["plot", str(folder), "-o", str(tmp_path / "r.html")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and name in said and not (tmp_path / "r.html").exists()


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_a_row_of_a_table_is_a_line_whatever_the_names(tmp_path, ending):
    table = made_table(12, 6)
    hostile = ["a\nb", "c\td", "e\r\nf", 'g"h', "i,j", "=1+1", "@k", "\u202ek", "-l"]
    names = {g: hostile[i] if i < len(hostile) else g for i, g in enumerate(table.attrs["symbols"])}
    folder = write_screen(tmp_path / "s", table, symbols=names)
    assert main(["stats", str(folder), "-o", str(tmp_path / f"t.{ending}")]) == 0
    text = (tmp_path / f"t.{ending}").read_text()
    assert len(text.splitlines()) == 13 and "\u202e" not in text
    read = pd.read_csv(tmp_path / f"t.{ending}", sep="\t" if ending == "tsv" else ",")
    assert {"a\\x0ab", "c\\x09d", 'g"h', "i,j", "=1+1", "@k", "-l"} <= set(read["symbols"]) and len(read) == 12
