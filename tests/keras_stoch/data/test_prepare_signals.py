"""Signals end a preparation in words, and what is done is whole."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")]
)
def test_a_signal_ends_it_in_words_with_nothing_half_written(tmp_path, number, code, word):
    (tmp_path / "raw").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (700, 700, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "raw" / "0.jpg")
    for n in range(1, 400):
        (tmp_path / "raw" / f"{n}.jpg").hardlink_to(tmp_path / "raw" / "0.jpg")
    (tmp_path / "l.csv").write_text("image,target\n" + "".join(f"{n},{n % 2}\n" for n in range(400)))
    out = tmp_path / "out"
    # A shell's background job ignores Ctrl-C, and so do its children.
    started = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    started += "from keras_stoch.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", started, "prepare", tmp_path / "raw", tmp_path / "l.csv", out, "--min-side", "9"]
    process = subprocess.Popen([*map(str, command), "--workers", "2"], stderr=subprocess.PIPE, text=True)
    journal = out / "journal.jsonl"
    while not (journal.exists() and journal.read_bytes().count(b"\n") > 3) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(number)
    told = process.communicate()[1]
    assert process.returncode == code
    assert told.strip().endswith(f"{word}; the same command goes on where this one stopped")
    assert not list(out.rglob("*.partial*"))
    done = [json.loads(line) for line in journal.read_text().splitlines()]
    assert 3 < len(done) < 400
    assert all((out / "images" / f"{entry['image']}.jpg").stat().st_size == entry["bytes"] for entry in done)
