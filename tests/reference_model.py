"""A slow, plain reference for embeddings and screens.

One cell at a time, no padding, the whole masked-language model of transformers in float64 with all its hidden states and
attentions, rows edited as python lists, pools and cosines in numpy, PageRank by networkx.
"""

import itertools

import numpy as np

# states of all tokens [tokens, width], those of the genes alone -> the cell's vector
POOLINGS = {
    "cls": lambda states, genes: states[0],
    "first": lambda states, genes: genes[0],
    "position0": lambda states, genes: states[0],
    "mean": lambda states, genes: genes.sum(0) / len(genes),
    "mean_all": lambda states, genes: states.sum(0) / len(states),
    "max": lambda states, genes: np.array([max(column) for column in genes.T]),
    "min": lambda states, genes: np.array([min(column) for column in genes.T]),
    "std": lambda states, genes: np.std(genes, axis=0, ddof=0),
    "var": lambda states, genes: np.var(genes, axis=0, ddof=0),
    "median": lambda states, genes: np.median(genes, axis=0),
    "norm": lambda states, genes: np.sqrt((genes * genes).sum(0)),
}


def cosine(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def distance(a, b):
    return float(np.sqrt(((np.asarray(a, np.float64) - b) ** 2).sum()))


def body_span(row, frame):
    return len(frame.head), len(row) - len(frame.tail)


def edit(row, kind, genes, frame, max_len, *, need_all=True, quarters=1, to_rank=0, longer=None, mask=1):
    """(edited row, [(position before, position after)], [positions of the perturbed]) or None, from python lists.

    longer
        The cell's genes before cropping, where a deletion is refilled.
    """
    row, genes = [int(t) for t in row], [int(g) for g in genes]
    first, last = body_span(row, frame)
    body = row[first:last]
    present = [g for g in genes if g in body]
    if kind != "overexpress" and (not present or (need_all and len(present) < len(genes))):
        return None
    rest = [g for g in body if g not in genes]
    if kind == "delete":
        n_lost = len(body) - len(rest)
        new = rest + ([] if longer is None else [int(g) for g in longer[len(body) :] if g not in genes][:n_lost])
    elif kind == "mask":
        new = [mask if g in genes else g for g in body]
    elif kind == "overexpress":
        new = (genes + rest)[: max_len - len(frame.head) - len(frame.tail)]
    elif kind == "move":
        new = rest[:to_rank] + present + rest[to_rank:]
    else:
        new = shifted(body, [g for g in body if g in genes], rest, quarters * len(body) // 4 * (1 if kind == "inhibit" else -1))
    if new == body:
        return None
    pairs = [(first + i, first + new.index(g)) for i, g in enumerate(body) if g not in genes and g in new]
    gone = [first + i for i, g in enumerate(body) if g in genes]
    return [*frame.head, *new, *frame.tail], pairs, gone


def shifted(body, movers, rest, by):
    """Each of `movers` at its rank plus `by`, or as near to it as the row and the others that were there first leave room."""
    n, wanted = len(body), [min(max(body.index(g) + by, 0), len(body) - 1) for g in movers]
    for places in itertools.combinations(range(n), len(movers)):  # ascending in order: the first that fits is the highest
        if all(p >= w for p, w in zip(places, wanted, strict=True)):
            break
    else:  # not all fit below: as high as the last places
        places = None
        for tried in itertools.combinations(range(n), len(movers)):
            late = [max(0, w - p) for p, w in zip(tried, wanted, strict=True)]
            if places is None or late < places[0]:
                places = late, tried
        places = places[1]
    new = dict(zip(places, movers, strict=True))
    left = iter(rest)
    return [new[i] if i in new else next(left) for i in range(n)]


class Reference:
    """The model of a checkpoint folder, run as slowly and plainly as can be."""

    def __init__(self, folder, frame, max_len):
        from transformers import AutoModelForMaskedLM

        self.model = AutoModelForMaskedLM.from_pretrained(folder, attn_implementation="eager").double().eval()
        self.frame = frame
        self.max_len = max_len
        self._seen = {}
        self._ranks = {}

    def hidden(self, row, attend=None):
        """All hidden states of one row, [0] the embedding layer's, [-1] the last block's: float64 [tokens, width]."""
        key = tuple(map(int, row)), None if attend is None else tuple(attend)
        if key not in self._seen:
            self._seen[key] = self._run(row, attend)
        return self._seen[key]

    def _run(self, row, attend):
        import torch

        ids = torch.tensor([[int(t) for t in row]])
        mask = torch.ones_like(ids) if attend is None else torch.tensor([attend]).long()
        with torch.no_grad():
            out = self.model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        return [h[0].numpy() for h in out.hidden_states]

    def embed(self, row, pool, layer):
        """The vector of a cell; of `a+b` one after the other."""
        if "+" in pool:
            return np.concatenate([self.embed(row, part, layer) for part in pool.split("+")])
        states = self.hidden(row)[layer]
        first, last = body_span(row, self.frame)
        genes = states[first:last]
        return self.page_rank(row, layer) @ genes if pool == "parti" else POOLINGS[pool](states, genes)

    def page_rank(self, row, layer):
        """PageRank of the genes of one row: each leads to those it attends to, by the largest attention over heads and blocks."""
        import networkx as nx
        import torch

        n_blocks = layer % (self.model.config.num_hidden_layers + 1)
        key = tuple(map(int, row)), n_blocks
        if key not in self._ranks:
            with torch.no_grad():
                out = self.model(input_ids=torch.tensor([[int(t) for t in row]]), output_attentions=True)
            first, last = body_span(row, self.frame)
            links = np.stack([a[0].numpy() for a in out.attentions[:n_blocks]]).max((0, 1))[first:last, first:last]
            graph = nx.from_numpy_array(links, create_using=nx.DiGraph)
            ranks = nx.pagerank(graph, alpha=0.85, tol=1e-12, max_iter=1_000)
            self._ranks[key] = np.array([ranks[i] for i in range(last - first)])
        return self._ranks[key]

    def state(self, rows, readout, layer):
        """Mean embedding of the cells of a state."""
        return np.mean([self.embed(r, {"cell": "mean", "cls": "cls"}[readout], layer) for r in rows], axis=0)

    def screen(self, cells, kind, targets, layer, *, states=None, keep_perturbed=False, euclidean=False, longer=None, **how):
        """One dict per cell and edit, in order.

        cells, longer
            {cell id: row}, and where deletions are refilled {cell id: genes before cropping}.
        targets
            Lists of tokens, or "all": each gene of the cell, from the top.
        states
            {(name, "cell" or "cls"): vector}.
        """
        rows = []
        for cell, row in cells.items():
            row = [int(t) for t in row]
            first, last = body_span(row, self.frame)
            for genes in [[g] for g in row[first:last]] if targets == "all" else targets:
                done = edit(row, kind, genes, self.frame, self.max_len, longer=longer and longer[cell], **how)
                if done is None:
                    continue
                found = {
                    "cell_id": cell,
                    "genes": tuple(genes),
                    "rank": row.index(genes[0], first, last) - first if genes[0] in row[first:last] else None,
                    "n_tokens": len(row),
                }
                given = layer, states or {}, keep_perturbed
                scores = self._scores(row, *done, *given)
                if kind == "delete":
                    in_place = self._in_place(row, *done[1:], *given)
                    unfilled = (
                        scores if longer is None else self._scores(row, *edit(row, kind, genes, self.frame, self.max_len, **how), *given)
                    )
                    parts = {"position": (unfilled, in_place)} | ({} if longer is None else {"refill": (scores, unfilled)})
                    for part, (total, less) in parts.items():
                        for k in in_place:
                            name = k.replace("cos_", "shift_") if k.startswith("cos_") else k
                            value = None if total[k] is None or less[k] is None else total[k] - less[k]
                            found[f"{name}_{part}"] = -value if value is not None and name != k else value
                    found |= {f"{k}_in_place": v for k, v in in_place.items()}
                rows.append({k: v for k, v in (found | scores).items() if euclidean or not k.startswith("euclidean_")})
        return rows

    def _scores(self, row, edited, pairs, gone, layer, states, keep_perturbed):
        before = self.hidden(row)[layer]
        after = self.hidden(edited)[layer] if edited else np.empty((0, before.shape[1]))
        whole = self._whole(before, row), self._whole(after, edited)
        return self._compare(before, after, pairs, states, whole if keep_perturbed else None)

    def _in_place(self, row, pairs, gone, layer, states, keep_perturbed):
        """No token attends to the perturbed, which is in no mean after; every other stays where it stands."""
        before = self.hidden(row)[layer]
        attend = [i not in gone for i in range(len(row))]
        after = self.hidden(row, attend)[layer] if any(attend) else np.empty((0, before.shape[1]))
        first, last = body_span(row, self.frame)
        kept = [after[i] for i in range(first, last) if attend[i]] if any(attend) else []
        whole = self._whole(before, row), np.mean(kept, axis=0) if kept else None
        return self._compare(before, after, [(i, i) for i, _ in pairs], states, whole if keep_perturbed else None)

    def _whole(self, states, row):
        first, last = body_span(row, self.frame)
        return states[first:last].mean(0) if last > first else None

    def _compare(self, before, after, pairs, states, whole):
        b, a = [before[i] for i, _ in pairs], [after[j] for _, j in pairs]
        scores = {
            "cos_genes": sum(cosine(x, y) for x, y in zip(b, a, strict=True)) / len(pairs) if pairs else None,
            "cos_cell": cosine(sum(b) / len(b), sum(a) / len(a)) if pairs else None,
            "euclidean_genes": sum(distance(x, y) for x, y in zip(b, a, strict=True)) / len(pairs) if pairs else None,
            "euclidean_cell": distance(sum(b) / len(b), sum(a) / len(a)) if pairs else None,
        }
        ends = {"cell": (sum(b) / len(b), sum(a) / len(a)) if pairs else None}
        if whole is not None:
            ends["cell"] = None if whole[1] is None else whole
        if self.frame.has_cls:
            ends["cls"] = before[0], after[0]
            scores |= {"cos_cls": cosine(before[0], after[0]), "euclidean_cls": distance(before[0], after[0])}
        for (name, readout), vector in states.items():
            if readout in ends:
                end = ends[readout]
                value = None if end is None else cosine(end[1], vector) - cosine(end[0], vector)
                scores[f"toward_{name}_{readout}"] = value
                nearer = None if end is None else distance(end[0], vector) - distance(end[1], vector)
                scores[f"euclidean_toward_{name}_{readout}"] = nearer
        return scores

    def affected(self, cells, kind, targets, layer, *, in_place=False, **how):
        """{(target genes, affected token): cosines of the affected gene, one per cell}; `in_place`: positions kept, nothing attends
        to the perturbed."""
        found = {}
        for row in cells.values():
            row = [int(t) for t in row]
            first, last = body_span(row, self.frame)
            for genes in [[g] for g in row[first:last]] if targets == "all" else targets:
                done = edit(row, kind, genes, self.frame, self.max_len, **how)
                if done is None or not done[0]:
                    continue
                before, after = self.hidden(row)[layer], self.hidden(done[0])[layer]
                if in_place:
                    after = self.hidden(row, [i not in done[2] for i in range(len(row))])[layer]
                for i, j in done[1]:
                    found.setdefault((tuple(genes), row[i]), []).append(cosine(before[i], after[i if in_place else j]))
        return found
