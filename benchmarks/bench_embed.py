"""Embed: rankcell against BertForMaskedLM with all hidden states in padded batches of 8, and against the matrix rate.

python benchmarks/bench_embed.py [--cells 24] [--length 2048] [--shape v1-10m]

Random weights and rows: time does not depend on them. The mean over genes at layer -2, fp32. On a GPU: --device cuda.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from common import best_of, forward_flops, machine, matmul_rate

from rankcell.embed import Embedder
from rankcell.model.heads import new_masked_lm, save_masked_lm
from rankcell.tokens import TokenSet, TokenSpec
from rankcell.vocab import Vocabulary

SHAPES = {
    "demo": dict(layers=3, width=128, heads=4, intermediate=256, positions=2048, genes=765),
    "v1-10m": dict(layers=6, width=256, heads=4, intermediate=512, positions=2048, genes=25424),
    "v2-narrow": dict(layers=6, width=384, heads=6, intermediate=1536, positions=4096, genes=20271),
    "v2-104m": dict(layers=12, width=768, heads=12, intermediate=3072, positions=4096, genes=20271),
}


def make_model(folder: Path, shape: dict) -> tuple[Path, Vocabulary]:
    import torch

    torch.manual_seed(0)
    n = shape["genes"]
    vocab = Vocabulary(
        name="bench",
        genes=[f"ENSG{i:011d}" for i in range(n)],
        tokens=np.arange(n) + 2,
        medians=np.ones(n),
        special={"<pad>": 0, "<mask>": 1},
    )
    model = new_masked_lm(vocab, dropout=0.0, **{k: v for k, v in shape.items() if k != "genes"})
    save_masked_lm(model, folder / "model", vocab)
    return folder / "model", vocab


def make_tokens(vocab: Vocabulary, lengths: np.ndarray, seed: int = 0) -> TokenSet:
    rng = np.random.default_rng(seed)
    rows = [rng.choice(vocab.tokens, n, replace=n > len(vocab)) for n in lengths]
    return TokenSet.from_rows(rows, TokenSpec.of(vocab, frame=vocab.frame, max_len=int(max(lengths))))


def plain_embeddings(model, tokens: TokenSet, device: str, layer: int = -2) -> np.ndarray:
    """Padded batches of 8 in the given order, every hidden state kept, mean over real tokens."""
    import torch

    out = []
    with torch.no_grad():
        for a in range(0, len(tokens), 8):
            rows = [torch.from_numpy(tokens.row(i).astype(np.int64)) for i in range(a, min(a + 8, len(tokens)))]
            ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(device)
            mask = (torch.arange(ids.shape[1])[None] < torch.tensor([len(r) for r in rows])[:, None]).long().to(device)
            h = model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[layer]
            out.append(((h * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)).cpu().numpy())
    return np.concatenate(out)


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--cells", type=int, default=24)
    ap.add_argument("--length", type=int, default=2048)
    ap.add_argument("--shape", choices=SHAPES, default="v1-10m")
    ap.add_argument("--device", default="cpu")
    ap.add_argument("--repeats", type=int, default=3)
    a = ap.parse_args()
    from transformers import BertForMaskedLM

    shape = SHAPES[a.shape]
    with tempfile.TemporaryDirectory() as tmp:
        folder, vocab = make_model(Path(tmp), shape)
        tokens = make_tokens(vocab, np.full(a.cells, a.length))
        embedder = Embedder(folder, device=a.device)
        baseline = BertForMaskedLM.from_pretrained(folder).eval().to(a.device)
        ours, theirs = embedder.embed(tokens).columns["mean_layer-2"], plain_embeddings(baseline, tokens, a.device)
        fast, slow = best_of(a.repeats, lambda: embedder.embed(tokens), lambda: plain_embeddings(baseline, tokens, a.device))
    print(machine(), "| device", a.device)
    print(
        f"{a.shape}, {a.cells} cells of {a.length} tokens, fp32, best of {a.repeats}; largest difference {np.abs(ours - theirs).max():.1e}"
    )
    print(f"rankcell embed             {fast:8.2f} s  {a.cells / fast:8.2f} cells/s")
    print(f"plain baseline             {slow:8.2f} s  {a.cells / slow:8.2f} cells/s   rankcell is {slow / fast:.2f} times as fast")
    if a.device == "cpu":
        needed = forward_flops(
            tokens=a.cells * a.length, length=a.length, layers=shape["layers"] - 1, width=shape["width"], intermediate=shape["intermediate"]
        )
        rate = matmul_rate(rows=8 * a.length, width=shape["width"], intermediate=shape["intermediate"])
        print(
            f"limit: matrix rate         {rate / 1e9:8.0f} GFLOP/s; rankcell does {needed / fast / 1e9:.0f}, {needed / fast / rate:.0%} of it"
        )


if __name__ == "__main__":
    main()
