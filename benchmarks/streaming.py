"""How fast a corpus elsewhere is read, beside the same store on the disk.

    python benchmarks/streaming.py
    python benchmarks/streaming.py --delay 0.05 --steps 40 --tokens 20000000

1. A store of random ids, made anew, and a corpus of it behind a web server in a process of its own, which answers each
   request after a delay.
2. Steps of 32 windows of 1,024 tokens through the loader (no worker processes), in the order of a run: from the disk,
   from the server with an empty cache, and again the same steps with what the cache has.

Prints one JSON object: thousands of tokens a second and processor seconds of each (median, lowest and highest of the
rounds, which are interleaved), requests, and bytes fetched for each byte of the tokens used.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_BLOCK, _BATCH = 1024, 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--delay", type=float, default=0.05, help="seconds before each answer")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--tokens", type=int, default=20_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        serve(asked.serve, asked.delay)
        return
    os.environ["no_proxy"] = "*"
    with tempfile.TemporaryDirectory(prefix="babygpt-streaming-") as name:
        folder = Path(name)
        prepared = make(folder, asked.tokens)
        command = [sys.executable, __file__, "--serve", str(folder / "corpus"), "--delay", str(asked.delay)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None
                url = f"http://127.0.0.1:{server.stdout.readline().strip()}/corpus.json"
                print(json.dumps(measure(prepared, url, folder, asked.steps, asked.rounds)))
            finally:
                server.terminate()


def make(folder: Path, tokens: int) -> Path:
    """The store as the cache has it, and a corpus of it beside."""
    import numpy as np

    from babygpt.data.exporting import export
    from babygpt.data.tokenizers import train_tokenizer
    from babygpt.data.writing import StoreWriter
    from babygpt.files import write_json_atomic

    prepared, rng = folder / "prepared", np.random.default_rng(0)
    for side, count in (("train", tokens), ("val", 10_000)):
        with StoreWriter(prepared / side, vocab_size=50_000, eos_id=0, tokenizer_identity="none") as writer:
            for _ in range(count // 1000):
                writer.add(rng.integers(0, 50_000, 1000), None, 4000)
    train_tokenizer(["some text"], 300).save_pretrained(prepared / "tokenizer")
    write_json_atomic(prepared / "manifest.json", {"format": 1, "facts": {"notes": []}, "files": {}})
    export(prepared, folder / "corpus", {}, "0" * 64)
    return prepared


def measure(prepared: Path, url: str, folder: Path, steps: int, rounds: int) -> dict[str, Any]:
    from babygpt.data.arrow import open_store
    from babygpt.data.corpus import read_corpus
    from babygpt.data.corpus_index import Place
    from babygpt.data.streamed import StreamedStore
    from babygpt.data.web import HttpSource

    counted = {"requests": 0, "bytes": 0}
    part = HttpSource.part

    def counting(source: HttpSource, start: int, size: int) -> bytes:
        content = part(source, start, size)
        counted["requests"] += 1
        counted["bytes"] += len(content)
        return content

    HttpSource.part = counting  # type: ignore[method-assign]
    corpus = read_corpus(url, folder / "cache")
    assert corpus is not None
    place = Place(url, corpus, folder / "cache" / "corpora" / corpus.key, folder / "cache" / "pieces", 10**10)
    found: dict[str, list[tuple[float, float]]] = {"disk": [], "empty cache": [], "filled cache": []}
    for number in range(rounds):
        shutil.rmtree(place.pieces, ignore_errors=True)
        found["disk"].append(read(open_store(prepared / "train"), steps, number))
        counted.update(requests=0, bytes=0)
        found["empty cache"].append(read(StreamedStore(place, "train"), steps, number))
        fetched = dict(counted)
        found["filled cache"].append(read(StreamedStore(place, "train"), steps, number))
        assert counted == fetched, "nothing is fetched twice"
    used = steps * _BATCH * _BLOCK
    result: dict[str, Any] = {"steps": steps, "tokens": used, **fetched}
    result["bytes_for_a_byte"] = round(fetched["bytes"] / (2 * used), 1)
    for name, times in found.items():
        rates = [used / wall / 1000 for wall, _ in times]
        result[name] = {
            "ktok_s": [round(f(rates), 1) for f in (statistics.median, min, max)],
            "cpu_s": round(statistics.median(cpu for _, cpu in times), 2),
        }
    return result


def read(store: Any, steps: int, seed: int) -> tuple[float, float]:
    """Wall and processor seconds for so many steps."""
    from torch.utils.data import DataLoader

    from babygpt.data.ahead import Ahead, StreamedWindows, is_streamed
    from babygpt.data.batches import WindowDataset
    from babygpt.data.layout import lay_out
    from babygpt.data.order import Order

    windows = lay_out(store, _BLOCK, "stream")
    order = Order(len(windows), _BATCH, seed)
    rows: Any = [order.windows_of(step) for step in range(steps)]
    kind = WindowDataset
    if is_streamed(store):
        rows, kind = Ahead(rows, 0), StreamedWindows
    began, used = time.perf_counter(), time.process_time()
    for _ in DataLoader(kind(store, windows, 0), batch_size=None, sampler=rows):
        pass
    return time.perf_counter() - began, time.process_time() - used


def serve(folder: Path, delay: float) -> None:
    """Parts of files, each after a delay."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            time.sleep(delay)
            path = folder / self.path.lstrip("/")
            size = path.stat().st_size
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            start, end = (int(asked[1]), int(asked[2] or size - 1) + 1) if asked else (0, size)
            with path.open("rb") as file:
                file.seek(start)
                body = file.read(end - start)
            self.send_response(206 if asked else 200)
            if asked:
                self.send_header("Content-Range", f"bytes {start}-{start + len(body) - 1}/{size}")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
