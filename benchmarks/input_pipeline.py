"""How fast images arrive, against a plain Pillow + torch DataLoader that does the paper's steps, in the same run.

    python benchmarks/input_pipeline.py [--data PREPARED] [--images 256] [--batch 16] [--rounds 5]
    python benchmarks/input_pipeline.py --workers 1 2 4

The plain loader does for every image what section 4.1.6 says with Pillow's own functions: decode, rotate, scale, flip,
make the small image, and turn both into float tensors. Without --data, the photographs that ISIC_SAMPLE names are
prepared into a temporary folder; without either, generated lesions are used. Rounds alternate between the loaders, so
that what else the machine does hits all of them.

With --workers: the bytes that each of so many workers reads in an epoch, from files and from 16 shards (on Linux, which
counts them).
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import torch
from PIL import Image


class PlainImages(torch.utils.data.Dataset):
    """The paper's steps with Pillow, image by image."""

    def __init__(self, files, high_res):
        self.files, self.high_res = files, high_res

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        with Image.open(self.files[index]) as file:
            image = file.convert("RGB")
        size = image.size
        image = image.rotate(rng.uniform(-180, 180), Image.Resampling.BILINEAR)
        side = round(size[0] * rng.uniform(0.6, 1.0))
        ground = Image.new("RGB", size)
        ground.paste(image.resize((side, side), Image.Resampling.BILINEAR), ((size[0] - side) // 2,) * 2)
        image = ground
        for flip in (Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.FLIP_TOP_BOTTOM):
            if rng.random() < 0.5:
                image = image.transpose(flip)
        low_res = tensor(image.resize((224, 224), Image.Resampling.BILINEAR))
        return (low_res, tensor(image)) if self.high_res else low_res


def tensor(image):
    """float32 (3, height, width) from 0 to 1, as torchvision's ToTensor."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float() / 255


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="PREPARED")
    parser.add_argument("--images", type=int, default=256, help="per round; repeated if there are fewer")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="+", help="count bytes of so many workers, and no seconds")
    parser.add_argument("--out", default="build/benchmarks/input_pipeline.json")
    options = parser.parse_args()
    if options.workers:
        return bytes_read(options)

    import pandas as pd

    from keras_stoch.data.pipeline import Pipeline, read_manifest
    from torch_ref.data import PreparedImages

    with tempfile.TemporaryDirectory() as folder:
        data, described = prepared(options.data, Path(folder))
        manifest, root = read_manifest(data)
        manifest = pd.concat([manifest] * -(-options.images // len(manifest)), ignore_index=True)[: options.images]
        files = [root / name for name in manifest["file"]]
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()

        def plain(high_res):
            dataset = PlainImages(files, high_res)
            return torch.utils.data.DataLoader(dataset, options.batch, num_workers=cores)

        def twin(high_res):
            dataset = PreparedImages(data, None, 224, high_res, augment=True)
            order = torch.utils.data.Subset(dataset, np.arange(options.images) % len(dataset))
            return torch.utils.data.DataLoader(order, options.batch, num_workers=cores)

        def ours(high_res):
            pipeline = Pipeline(manifest, None, batch_size=options.batch, high_res=high_res, augment=True, root=root)
            return pipeline.epoch(0)

        print(f"{described}, {options.images} images a round, {cores} cores, {platform.machine()}\n")
        print("| images | loader | images/s | over plain |\n|---|---|---:|---:|")
        results = []
        for title, high_res in (("low_res and high_res", 1024), ("low_res alone", None)):
            loaders = {"Pillow + torch DataLoader": plain, "torch_ref": twin, "keras_stoch": ours}
            rates = {name: [] for name in loaders}
            for _ in range(options.rounds + 1):
                for name, make in loaders.items():
                    start = time.perf_counter()
                    batches = make(high_res)
                    for _batch in batches:
                        pass
                    rates[name].append(options.images / (time.perf_counter() - start))
            # The first round compiles and fills the file cache.
            rates = {name: statistics.median(values[1:]) for name, values in rates.items()}
            for name, rate in rates.items():
                ratio = rate / rates["Pillow + torch DataLoader"]
                results.append({"images": title, "loader": name, "images_per_s": rate, "ratio": ratio})
                print(f"| {title} | {name} | {rate:.0f} | {ratio:.1f} |", flush=True)
        print("\n| step, one image at a time | ms |\n|---|---:|")
        steps = step_times(files[0])
        for name, seconds in steps.items():
            print(f"| {name} | {seconds * 1e3:.1f} |")
    Path(options.out).parent.mkdir(parents=True, exist_ok=True)
    Path(options.out).write_text(json.dumps({"data": described, "rows": results, "steps": steps}, indent=1))


def bytes_read(options):
    """Prints what every worker reads of a prepared folder."""
    import pandas as pd

    from keras_stoch.data.pipeline import Pipeline
    from keras_stoch.data.shards import write_shards

    def count() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    with tempfile.TemporaryDirectory() as folder:
        data, described = prepared(options.data, Path(folder))
        if not any((data / "shards").glob("train-*")):
            write_shards(pd.read_csv(data / "manifest.csv", dtype={"image": str}), data, 16)

        def read(source, worker, workers):
            # The small image alone: what is read does not depend on what is made of it.
            makes = {"low_res": 64, "high_res": None, "shuffle": True, "remainder": "drop"}
            begun = count()
            pipeline = Pipeline(data, batch_size=options.batch, source=source, worker=worker, workers=workers, **makes)
            for _batch in pipeline.epoch(0):
                pass
            return count() - begun

        read("files", 0, 1), read("shards", 0, 1)  # what TensorFlow loads when it is first used
        print(f"{described}, an epoch of batches of {options.batch}\n")
        print("| source | workers | MB that a worker reads: least | most | all together |\n|---|---:|---:|---:|---:|")
        rows = []
        for source in ("files", "shards"):
            for workers in options.workers:
                found = [read(source, worker, workers) / 1e6 for worker in range(workers)]
                rows.append({"source": source, "workers": workers, "megabytes": found})
                print(f"| {source} | {workers} | {min(found):.1f} | {max(found):.1f} | {sum(found):.1f} |", flush=True)
    out = Path(options.out).with_name("bytes_read.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"data": described, "rows": rows}, indent=1))


def prepared(data, folder: Path):
    """(prepared folder, what is in it)."""
    if data:
        return Path(data), str(data)
    sample = os.environ.get("ISIC_SAMPLE")
    if sample and (Path(sample) / "labels").is_dir():
        from keras_stoch.data.prepare import prepare

        counts = prepare(Path(sample) / "images", Path(sample) / "labels", folder / "prepared")["counts"]
        return folder / "prepared", f"{counts['kept']} dermoscopic photographs of 1024x1024"
    from keras_stoch.data.synthetic import write_lesions

    return write_lesions(folder / "prepared", 64), "64 generated lesions of 1024x1024"


def step_times(file: Path) -> dict[str, float]:
    """Seconds of each step of ours and of TensorFlow's own transform, with nothing beside it."""
    import tensorflow as tf

    from keras_stoch.data.augment import affine_matrix, reduce, transform

    encoded = file.read_bytes()
    image = tf.io.decode_jpeg(encoded, dct_method="INTEGER_ACCURATE")
    size = image.shape[0]
    matrix = affine_matrix([30.0, 0.8, 0.0, 0.0], size)
    eight = tf.constant(np.concatenate([matrix, [0, 0]])[None], tf.float32)
    steps = {
        "decode": lambda: tf.io.decode_jpeg(encoded, dct_method="INTEGER_ACCURATE"),
        "decode at a quarter": lambda: tf.io.decode_jpeg(encoded, ratio=4, dct_method="INTEGER_ACCURATE"),
        "transform (XLA)": lambda: transform(image, matrix),
        "transform (ImageProjectiveTransformV3)": lambda: tf.raw_ops.ImageProjectiveTransformV3(
            images=image[None],
            transforms=eight,
            output_shape=[size, size],
            interpolation="BILINEAR",
            fill_mode="CONSTANT",
            fill_value=0.0,
        ),
        "reduce to 224": lambda: reduce(image, 224),
    }
    found = {}
    for name, step in steps.items():
        step()
        times = []
        for _ in range(15):
            start = time.perf_counter()
            step()
            times.append(time.perf_counter() - start)
        found[name] = statistics.median(times)
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)  # the loaders' workers are processes
    main()
