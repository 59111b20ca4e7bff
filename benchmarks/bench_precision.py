"""What a lower precision does to the shifts of a screen: order and size against fp32, on one cell.

    python benchmarks/bench_precision.py [--device cuda] [--length 400] [--edits 40] [--init 0.02]

Deletions of the demo model (a row of all its genes that fit) and of a random model of V1-10M's shape, whose weights are drawn with
standard deviation `--init`: at 0.02 its in-place shifts are about 1e-7. Each faster precision that the device has, and on a
processor fp16 as well, which is slow there but rounds as a GPU does.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from common import machine


def cases(length: int, init: float, folder: Path) -> Iterator[tuple[str, Any, np.ndarray]]:
    """(name, checkpoint, row)"""
    import torch
    from transformers import BertConfig, BertForMaskedLM

    from rankcell.model import open_checkpoint
    from rankcell.vocab import Vocabulary

    random = np.random.default_rng(0)
    demo = open_checkpoint("demo")
    row = random.permutation(demo.vocab.tokens)[: min(length, demo.max_positions)].astype(np.int32)
    yield "demo model", demo, row
    torch.manual_seed(0)
    genes = [f"ENSG{i:011d}" for i in range(5000)]
    special = {"<pad>": 0, "<mask>": 1}
    vocab = Vocabulary(name="made up", genes=genes, symbols=genes, tokens=np.arange(5000) + 2, medians=np.ones(5000), special=special)
    shape = {"hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 512, "hidden_act": "relu"}
    config = BertConfig(vocab_size=vocab.n_ids, max_position_embeddings=2048, initializer_range=init, pad_token_id=0, **shape)
    BertForMaskedLM(config).save_pretrained(folder)
    vocab.save(folder / "vocabulary")
    yield f"V1-10M's shape, weights N(0, {init})", open_checkpoint(folder), random.permutation(vocab.tokens)[:length].astype(np.int32)


def main() -> None:
    import torch

    from rankcell.model import Encoder
    from rankcell.model.encoder import choose_device
    from rankcell.model.precisions import faster_precisions
    from rankcell.perturb import Delete, EditPlan, StateEmbeddings
    from rankcell.perturb.exact.engine import Engine
    from rankcell.perturb.exact.shift_precision import compare
    from rankcell.vocab import Frame

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--length", type=int, default=400)
    parser.add_argument("--edits", type=int, default=40)
    parser.add_argument("--init", type=float, default=0.02)
    a = parser.parse_args()
    device = choose_device(a.device)
    print(f"{machine()}, torch {torch.__version__}, {torch.cuda.get_device_name(device) if device.type == 'cuda' else 'cpu'}")
    lower = faster_precisions(device, 256) if device.type == "cuda" else ["bf16", "fp16"]
    print("| model | score | median shift | " + " | ".join(f"{p}: Spearman, error" for p in lower) + " |")
    with tempfile.TemporaryDirectory() as folder:
        for name, checkpoint, row in cases(a.length, a.init, Path(folder)):
            plan = EditPlan.make(checkpoint.vocab, Delete(), frame=Frame(), max_len=2048)
            scored = {}
            for precision in ("fp32", *lower):
                encoder = Encoder(checkpoint, device=a.device, precision=precision)
                engine = Engine(encoder, plan, checkpoint.resolve_layer(-2), StateEmbeddings({}), 4096)
                scored[precision] = engine.run([row], most=a.edits)
            for score in ("cos_genes", "cos_genes_in_place"):
                pairs = (compare(scored["fp32"], scored[p], score) for p in lower)
                figures = " | ".join(f"{rho:.4f}, {error:.2%}" for rho, error in pairs)
                print(f"| {name} | {score} | {np.median(1 - scored['fp32'].scores[score]):.1e} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
