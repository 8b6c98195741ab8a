"""What a native kernel would give: the stochastic convolution by hand in C, AVX2 and OpenMP, against the form `taps`.

    python benchmarks/native_kernel.py [--repeat 15] [--cpu-seconds]

A prototype for one shape (1024x1024x3 uint8, batch 8, windows per batch, 3x3, stride 2, 112x112x32) and the forward
pass alone, compiled by `cc`: it reads the same layout by column phase that `keras_stoch.taps` makes, sums the 27
products in registers, and writes (B, P, Q, F) at once. A custom operation for TensorFlow or XLA could not do better by
more than what its pieces here take less.
"""

import argparse
import ctypes
import os
import subprocess
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from roofs import TensorFlow, measure

from keras_stoch import stochastic

BATCH, SIZE, OUTPUT, FILTERS = 8, 1024, 112, 32

SOURCE = r"""
#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
enum { C = 3, K = 3, S = 2, P = 112, Q = 112, F = 32 };

/* (B, H, W, 3) -> (B, H, 6, W / 2) */
void lay_out(const uint8_t *images, uint8_t *laid, int rows, int width) {
#pragma omp parallel for schedule(static)
  for (int r = 0; r < rows; r++) {
    const uint8_t *in = images + (size_t)r * width * C;
    uint8_t *out = laid + (size_t)r * width * C;
    for (int x = 0; x < width / 2; x++)
      for (int n = 0; n < 6; n++) out[n * (width / 2) + x] = in[x * 6 + n];
  }
}

/* (B, H, 6, W / 2), (27, F), (F, 2) -> (B, P, Q, F) */
void convolve(const uint8_t *laid, const float *kernel, const int32_t *windows, float *maps, int batch, int height,
              int width) {
#pragma omp parallel for schedule(dynamic, 1) collapse(2)
  for (int b = 0; b < batch; b++)
    for (int block = 0; block < P; block += 8)
      for (int p = block; p < block + 8; p++) {
        float rows[F][Q];
        for (int f = 0; f < F; f++) {
          const uint8_t *at[27];
          float weight[27];
          int n = 0;
          for (int i = 0; i < K; i++)
            for (int j = 0; j < K; j++)
              for (int c = 0; c < C; c++, n++) {
                int row = windows[2 * f] + S * p + i, column = windows[2 * f + 1] + j;
                at[n] = laid + ((size_t)b * height + row) * width * C + (size_t)(column % 2 * C + c) * (width / 2) +
                        column / 2;
                weight[n] = kernel[n * F + f];
              }
          for (int q = 0; q < Q; q += 16) {
            __m256 low = _mm256_setzero_ps(), high = low;
            for (int t = 0; t < 27; t++) {
              __m128i pixels = _mm_loadu_si128((const __m128i *)(at[t] + q));
              __m256 w = _mm256_broadcast_ss(&weight[t]);
              low = _mm256_fmadd_ps(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(pixels)), w, low);
              pixels = _mm_srli_si128(pixels, 8);
              high = _mm256_fmadd_ps(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(pixels)), w, high);
            }
            _mm256_storeu_ps(&rows[f][q], low);
            _mm256_storeu_ps(&rows[f][q + 8], high);
          }
        }
        float *out = maps + ((size_t)b * P + p) * Q * F;
        for (int q0 = 0; q0 < Q; q0 += 8)
          for (int f0 = 0; f0 < F; f0 += 8)
            for (int q = q0; q < q0 + 8; q++)
              for (int f = f0; f < f0 + 8; f++) out[q * F + f] = rows[f][q];
      }
}
"""


def library(folder: str):
    """The prototype, compiled for this machine."""
    source, path = f"{folder}/kernel.c", f"{folder}/kernel.so"
    with open(source, "w") as file:
        file.write(SOURCE)
    subprocess.run(["cc", "-O3", "-march=native", "-fopenmp", "-shared", "-fPIC", "-o", path, source], check=True)
    return ctypes.CDLL(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--cpu-seconds", action="store_true", help="count the processor's seconds, not the clock's")
    options = parser.parse_args()
    clock = time.process_time if options.cpu_seconds else time.perf_counter
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (BATCH, SIZE, SIZE, 3), dtype=np.uint8)
    kernel = rng.normal(size=(3, 3, 3, FILTERS)).astype("float32") / 255
    small = tf.constant(rng.normal(size=(BATCH, 224, 224, 3)), tf.float32)
    window = (OUTPUT - 1) * 2 + 3

    def draw():
        return rng.integers(0, SIZE - window + 1, (FILTERS, 2), dtype=np.int32)

    laid = np.zeros(images.size + 64, np.uint8)  # the last vector of a row may read beyond it
    maps = np.empty((BATCH, OUTPUT, OUTPUT, FILTERS), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        native = library(folder)

    def at(array):
        return ctypes.c_void_p(array.ctypes.data)

    def lay_out():
        native.lay_out(at(images), at(laid), BATCH * SIZE, SIZE)

    def convolve(windows=None):
        windows = draw() if windows is None else windows
        native.convolve(at(laid), at(kernel), at(windows), at(maps), BATCH, SIZE, SIZE)

    pixels, weights = tf.constant(images), tf.constant(kernel)
    taps = tf.function(lambda windows: stochastic.taps(pixels, weights, windows, (2, 2), (OUTPUT, OUTPUT)))
    stem = tf.function(lambda: tf.nn.conv2d(small, weights, 2, "SAME"))
    windows = draw()
    lay_out()
    convolve(windows)
    print(f"largest difference from taps: {np.abs(maps - taps(tf.constant(windows)).numpy()).max():.1e}\n")
    ways = {
        "standard stem": stem,
        "native: lay out": lay_out,
        "native: convolve": convolve,
        "taps": lambda: taps(tf.constant(draw())),
    }
    print("| what | ms | over the stem |\n|---|---:|---:|")
    taken = {name: measure(way, TensorFlow(), options.repeat, clock)[1] for name, way in ways.items()}
    for name, seconds in taken.items():
        print(f"| {name} | {seconds * 1e3:.1f} | {seconds / taken['standard stem']:.1f} |")


if __name__ == "__main__":
    main()
