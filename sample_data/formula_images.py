"""Images made by formulas alone, for pre-training without photographs.

A *family* is a kind of formula (fractals, glyphs, fields, cells, leaves, stripes). Calling `family(rng)` draws one
class of that family: its parameters, fixed from then on, in a function that renders one image of the class for each
generator it is given. An image is float32 [SIDE, SIDE], on any scale of grey.

Fractals are iterated function systems, after Kataoka et al., "Pre-training without Natural Images" (2020); leaves
follow the dead-leaves model, as in Baradad et al., "Learning to See by Looking at Noise" (2021).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from PIL import Image, ImageDraw

SIDE = 160  # pixels

Array = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
Renderer = Callable[[np.random.Generator], Array]


def fractal(rng: np.random.Generator) -> Renderer:
    """Draw an iterated function system whose points fill enough of the image to be seen."""
    while True:
        count = int(rng.integers(2, 7))
        maps = np.stack([draw_contraction(rng) for _ in range(count)])  # [K, 2, 2]
        shifts = rng.uniform(-1, 1, (count, 2))
        density = chaos_game(maps, shifts, rng, points=500)
        if (density[::4, ::4] > density.min()).mean() > 0.06:
            break

    def render(rng: np.random.Generator) -> Array:
        jitter = rng.normal(0, 0.03, maps.shape)
        return chaos_game(maps + jitter, shifts + rng.normal(0, 0.03, shifts.shape), rng, points=3000)

    return render


def draw_contraction(rng: np.random.Generator) -> np.ndarray:
    """Draw a 2 x 2 matrix that shrinks: rotation, scaling by less than one, rotation, maybe a mirror."""
    large = rng.uniform(0.35, 0.85)
    scaling = np.diag([large, large * rng.uniform(0.3, 1)]) * rng.choice([-1, 1], 2)
    return rotation(rng.uniform(0, 2 * np.pi)) @ scaling @ rotation(rng.uniform(0, 2 * np.pi))


def rotation(angle: float) -> np.ndarray:
    """The matrix that turns the plane by `angle` radians."""
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def chaos_game(maps: np.ndarray, shifts: np.ndarray, rng: np.random.Generator, points: int) -> Array:
    """Follow `points` points at once for 50 steps and draw the logarithm of how often each pixel is met."""
    weights = np.abs(np.linalg.det(maps)) + 0.02
    choices = rng.choice(len(maps), (50, points), p=weights / weights.sum())
    position = np.zeros((points, 2))
    met = []
    for step, choice in enumerate(choices):
        position = np.einsum("pij,pj->pi", maps[choice], position) + shifts[choice]
        if step >= 15:  # by then the points lie on the attractor
            met.append(position)
    cloud = np.concatenate(met)
    low, high = np.percentile(cloud, 1, axis=0), np.percentile(cloud, 99, axis=0)
    span = max((high - low).max(), 1e-6) * 1.15
    pixels = ((cloud - (low + high) / 2) / span + 0.5) * SIDE
    pixels = pixels[((pixels >= 0) & (pixels < SIDE)).all(axis=1)].astype(np.int64)
    density = np.bincount(pixels[:, 0] * SIDE + pixels[:, 1], minlength=SIDE * SIDE)
    return np.log1p(density).reshape(SIDE, SIDE).astype(np.float32)


def glyph(rng: np.random.Generator) -> Renderer:
    """Draw a made-up letter: one to three smooth pen strokes."""
    strokes = [rng.uniform(0.15, 0.85, (int(rng.integers(3, 6)), 2)) for _ in range(int(rng.integers(1, 4)))]

    def render(rng: np.random.Generator) -> Array:
        width = int(rng.integers(8, 30))
        canvas = Image.new("L", (SIDE, SIDE))
        pen = ImageDraw.Draw(canvas)
        for stroke in strokes:
            curve = smooth_curve(stroke + rng.normal(0, 0.03, stroke.shape)) * SIDE
            for x, y in curve:
                pen.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=255)
        return np.asarray(canvas, dtype=np.float32)

    return render


def smooth_curve(corners: np.ndarray, samples: int = 60) -> np.ndarray:
    """Points [samples, 2] along the Bezier curve with these control points [N, 2]."""
    t = np.linspace(0, 1, samples)[:, None, None]
    points = np.broadcast_to(corners, (samples, *corners.shape))
    while points.shape[1] > 1:  # de Casteljau
        points = points[:, :-1] * (1 - t) + points[:, 1:] * t
    return points[:, 0]


def field(rng: np.random.Generator) -> Renderer:
    """Draw a random field: noise with a spectrum of its own (band, direction), bent by a curve."""
    fy, fx = np.meshgrid(np.fft.fftfreq(SIDE), np.fft.rfftfreq(SIDE), indexing="ij")
    radius, angle = np.hypot(fx, fy) + 1e-6, np.arctan2(fy, fx)
    centre = np.exp(rng.uniform(np.log(0.012), np.log(0.2)))
    band = np.exp(-(np.log(radius / centre) ** 2) / (2 * rng.uniform(0.1, 1.2) ** 2)) / radius
    direction = np.exp(rng.uniform(0, 5) * (np.cos(2 * (angle - rng.uniform(0, np.pi))) - 1))
    spectrum = band * direction
    bend = BENDS[int(rng.integers(len(BENDS)))]

    def render(rng: np.random.Generator) -> Array:
        noise = np.fft.rfft2(rng.normal(size=(SIDE, SIDE))) * spectrum
        noise[0, 0] = 0
        values = np.fft.irfft2(noise, s=(SIDE, SIDE))
        return bend(values / values.std()).astype(np.float32)

    return render


BENDS: tuple[Callable[[np.ndarray], np.ndarray], ...] = (
    lambda x: x,
    lambda x: -np.abs(x),  # ridges
    lambda x: np.exp(1.2 * x),  # bright islands
    lambda x: np.tanh(4 * x),  # two tones
    lambda x: np.exp(-8 * x**2),  # contour lines
)


def cells(rng: np.random.Generator) -> Renderer:
    """Draw a mosaic of Voronoi cells: their number, stretch, regularity, tones, shading and joints."""
    columns, rows = int(rng.integers(3, 16)), int(rng.integers(3, 16))
    disorder, joint = rng.uniform(0.05, 0.8), rng.uniform(0.01, 0.12)
    tones, shading, joints = rng.uniform(0, 1), rng.uniform(-1, 1), rng.uniform(-2, 2)

    def render(rng: np.random.Generator) -> Array:
        grid = np.stack(np.meshgrid(np.arange(-1, columns + 1), np.arange(-1, rows + 1)), -1).reshape(-1, 2)
        seeds = grid + 0.5 + 0.5 * (grid[:, 1:] % 2) * [1, 0] + rng.uniform(-disorder, disorder, grid.shape)
        seeds = torch.from_numpy(seeds * [4 / columns, 4 / rows])
        axis = torch.linspace(0, 4, SIDE, dtype=torch.float64)
        pixels = torch.cartesian_prod(axis, axis).flip(1)
        distance, nearest = torch.cdist(pixels, seeds).topk(2, largest=False)  # [SIDE * SIDE, 2]
        first, second = distance.numpy().T
        tone = rng.normal(size=len(seeds))[nearest[:, 0].numpy()]
        edge = np.exp(-(((second - first) / joint) ** 2))
        values = tones * tone + shading * 2 * first + joints * edge
        return values.reshape(SIDE, SIDE).astype(np.float32)

    return render


def leaves(rng: np.random.Generator) -> Renderer:
    """Draw a heap of opaque shapes: how many, how large, how long and thin, with how many corners."""
    count = int(np.exp(rng.uniform(np.log(15), np.log(700))))
    small, spread, thin = rng.uniform(1.5, 6), rng.uniform(0.1, 1.1), rng.uniform(0.05, 1)
    corners, bright, direction = int(rng.integers(3, 9)), rng.uniform(0, 1), rng.uniform(0.1, np.pi)

    def render(rng: np.random.Generator) -> Array:
        canvas = Image.new("L", (SIDE, SIDE), 60)
        pen = ImageDraw.Draw(canvas)
        turn = np.linspace(0, 2 * np.pi, corners, endpoint=False)
        for _ in range(count):
            length = small * np.exp(np.abs(rng.normal(0, spread))) / np.sqrt(thin)
            angles = turn + rng.uniform(0, 0.8, corners)
            outline = np.stack([np.cos(angles) * length, np.sin(angles) * length * thin], 1)
            outline = outline @ rotation(rng.uniform(-direction, direction)) + rng.uniform(-5, SIDE + 5, 2)
            tone = int(255 * rng.uniform(bright * 0.8, 1))
            pen.polygon([(x, y) for x, y in outline], fill=tone)
        return np.asarray(canvas, dtype=np.float32)

    return render


def stripes(rng: np.random.Generator) -> Renderer:
    """Draw stripes or checks: their pitch, sharpness and waviness."""
    pitch, sharpness, waviness = rng.uniform(5, 40), rng.uniform(0.3, 6), rng.uniform(0, 1.5)
    cross, second_pitch = rng.choice([0.0, 0.0, 1.0]), rng.uniform(5, 40)

    def render(rng: np.random.Generator) -> Array:
        y, x = np.mgrid[:SIDE, :SIDE]
        warp = waviness * np.sin(2 * np.pi * (x + y) / rng.uniform(60, 160) + rng.uniform(0, 2 * np.pi))
        one = np.sin(2 * np.pi * x / pitch + warp + rng.uniform(0, 2 * np.pi))
        two = np.sin(2 * np.pi * y / second_pitch + warp + rng.uniform(0, 2 * np.pi))
        return np.tanh(sharpness * (one + cross * two)).astype(np.float32)

    return render


FAMILIES: Mapping[str, Callable[[np.random.Generator], Renderer]] = {
    "fractal": fractal,
    "glyph": glyph,
    "field": field,
    "cells": cells,
    "leaves": leaves,
    "stripes": stripes,
}


def render_images(counts: Mapping[str, int], images: int, seed: int) -> torch.Tensor:
    """Render `images` images of each of `counts[family]` classes: uint8 [classes, images, SIDE, SIDE]."""
    rng = np.random.default_rng(seed)
    classes = [FAMILIES[family](rng) for family, count in counts.items() for _ in range(count)]
    rendered = torch.empty((len(classes), images, SIDE, SIDE), dtype=torch.uint8)
    for index, render in enumerate(classes):
        for image in range(images):
            rendered[index, image] = torch.from_numpy(to_grey(render(rng)))
    return rendered


def to_grey(values: Array) -> np.ndarray:
    """Stretch values to 0..255, the outermost hundredth at either end clipped."""
    low, high = np.percentile(values, (1, 99))
    if high <= low:
        low, high = values.min(), values.max() + 1e-6
    return (255 * ((values - low) / (high - low)).clip(0, 1)).round().astype(np.uint8)
