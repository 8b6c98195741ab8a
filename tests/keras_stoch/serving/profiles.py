"""ICC profiles made by hand, and pictures whose values mean the same colours in them."""

import struct

import numpy as np

# Primaries adapted to D50, as the columns of a matrix from light to XYZ.
PRIMARIES = {
    "srgb": [[0.4360657, 0.3851515, 0.1430784], [0.2224932, 0.7168870, 0.0606169], [0.0139160, 0.0970764, 0.7140961]],
    "p3": [[0.5151, 0.2920, 0.1571], [0.2412, 0.6922, 0.0666], [-0.0011, 0.0419, 0.7841]],
    "adobe": [[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]],
    "prophoto": [[0.7977, 0.1352, 0.0313], [0.2880, 0.7119, 0.0001], [0.0, 0.0, 0.8249]],
}


def srgb_light(values):
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def light(curve, values):
    return srgb_light(values) if curve == "srgb" else values**curve


def fixed(*numbers):
    return b"".join(struct.pack(">i", round(65536 * number)) for number in numbers)


def formula(kind, *numbers):
    return b"para\0\0\0\0" + struct.pack(">HH", kind, 0) + fixed(*numbers)


def power(gamma):
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(256 * gamma))


def table(curve, points=1024):
    values = np.rint(65535 * light(curve, np.linspace(0, 1, points))).astype(">u2")
    return b"curv\0\0\0\0" + struct.pack(">I", points) + values.tobytes()


SRGB_CURVE = formula(3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def profile(space, tags, connection=b"XYZ "):
    """An ICC profile of version 2: tags by name."""
    at, entries, body = 132 + 12 * len(tags), b"", b""
    for name, content in tags.items():
        content += b"\0" * (-len(content) % 4)
        entries += name + struct.pack(">II", at + len(body), len(content))
        body += content
    kind = b"prtr" if space == b"CMYK" else b"mntr"
    head = struct.pack(">I4sI4s4s4s", at + len(body), b"\0" * 4, 0x02400000, kind, space, connection)
    head = head.ljust(36, b"\0") + b"acsp" + b"\0" * 28 + fixed(0.9642, 1.0, 0.8249)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + entries + body


def rgb(primaries, curve, **more):
    columns = np.array(PRIMARIES[primaries]).T
    tags = {name: b"XYZ \0\0\0\0" + fixed(*column) for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns)}  # noqa: B905
    tags |= {b"wtpt": b"XYZ \0\0\0\0" + fixed(0.9642, 1.0, 0.8249)}
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    return profile(b"RGB ", tags | {name.encode(): content for name, content in more.items()})


def grey(curve):
    return profile(b"GRAY", {b"kTRC": curve, b"wtpt": b"XYZ \0\0\0\0" + fixed(0.9642, 1.0, 0.8249)})


def tables(channels):
    """A table of 2 points a channel to Lab, of 8 bits ("lut8Type"): lightness falls with the sum of the channels."""
    corners = np.stack(np.meshgrid(*[[0, 1]] * channels, indexing="ij"), -1).reshape(-1, channels)
    lightness = np.rint(255 * (1 - corners.mean(1)) if channels == 4 else 255 * corners.mean(1))
    lab = np.stack([lightness, np.full(len(corners), 128), np.full(len(corners), 128)], 1).astype(np.uint8)
    ramp = bytes(range(256))
    head = b"mft1\0\0\0\0" + bytes([channels, 3, 2, 0]) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    return head + ramp * channels + lab.tobytes() + ramp * 3


def of_tables(space):
    channels = 4 if space == b"CMYK" else 3
    return profile(space, {b"A2B0": tables(channels)}, connection=b"Lab ")


def encoded(pixels, primaries, curve, top=255):
    """The values that mean, in a space, the colours that `pixels` are in sRGB: float, 0 to `top`."""
    matrix = np.linalg.inv(PRIMARIES[primaries]) @ PRIMARIES["srgb"]
    linear = np.clip(srgb_light(pixels / 255) @ matrix.T, 0, 1)
    # The inverse of the curve, by its table.
    grid = np.linspace(0, 1, 65536)
    return top * np.interp(linear, light(curve, grid), grid)
