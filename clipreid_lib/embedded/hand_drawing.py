"""Draw one posed hand: outline from signed distances, light from a height field, thin lines as stamps."""

import math

import numpy as np

from clipreid_lib.embedded.hand_people import Ring
from clipreid_lib.embedded.hand_sessions import Box, Scene
from clipreid_lib.embedded.hand_shape import (
    CREASE,
    KNUCKLE_AT,
    MOLE,
    SCAR,
    VEIN,
    Finger,
    Hand,
    measure_body,
    measure_finger,
    raise_body,
    raise_bump,
    raise_dome,
    smooth_max,
    smooth_min,
)

_DYES = ((VEIN, (0.82, 0.91, 1.0), 1.0), (CREASE, (0.50, 0.38, 0.34), 0.5), (MOLE, (0.38, 0.29, 0.26), 0.5))


def _paint(albedo: np.ndarray, cover: np.ndarray, colour: np.ndarray) -> None:
    """Blend a colour into the albedo (or a view of it), in place; cover is 0..1."""
    albedo += cover[..., None] * (colour - albedo)


def _stamp(
    shape: tuple[int, ...], px: np.ndarray, py: np.ndarray, radius: np.ndarray, strength: np.ndarray, soft: float
) -> np.ndarray:
    """Paint discs (pixels) into an empty layer, keeping the strongest value where they overlap."""
    layer = np.zeros(shape)
    reach = math.ceil(radius.max(initial=0.0) + soft)
    steps = np.arange(-reach, reach + 1)
    col = np.floor(px).astype(np.intp)[:, None, None] + steps[None, None, :]
    row = np.floor(py).astype(np.intp)[:, None, None] + steps[None, :, None]
    far = np.sqrt((col + 0.5 - px[:, None, None]) ** 2 + (row + 0.5 - py[:, None, None]) ** 2)
    value = ((radius[:, None, None] + soft - far) / (2 * soft)).clip(0.0, 1.0) * strength[:, None, None]
    keep = (col >= 0) & (col < shape[1]) & (row >= 0) & (row < shape[0]) & (value > 0)
    np.maximum.at(layer.reshape(-1), (row * shape[1] + col)[keep], value[keep])
    return layer


def _draw_marks(hand: Hand, scene: Scene, albedo: np.ndarray) -> None:
    """Darken or whiten the skin along lines, veins, scars and moles, in place."""
    marks = hand.marks
    x, y = marks.at[:, 0].copy(), marks.at[:, 1].copy()
    for number, finger in enumerate(hand.fingers):
        here = marks.part == number
        x[here], y[here] = finger.place(marks.at[here, 0], marks.at[here, 1])
    px, py = scene.to_pixels(x, y)
    radius = marks.radius * scene.scale

    def cover(kind: int, soft: float) -> np.ndarray:
        here = marks.kind == kind
        return _stamp(albedo.shape[:2], px[here], py[here], radius[here], marks.strength[here], soft)

    for kind, dye, soft in _DYES:
        albedo *= 1.0 - cover(kind, soft)[..., None] * (1.0 - np.array(dye))
    _paint(albedo, 0.7 * cover(SCAR, 0.5), np.array([0.96, 0.84, 0.80]))


def _look_up_blotches(grid: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Look the slow colour changes up with smooth interpolation; x, y (n,) give (n, 3)."""
    rows, cols = grid.shape[0] - 1, grid.shape[1] - 1
    gx, gy = ((x + 0.85) / 1.5).clip(0.0, 0.9999) * cols, ((y + 0.3) / 2.2).clip(0.0, 0.9999) * rows
    ix, iy = gx.astype(np.intp), gy.astype(np.intp)
    fx, fy = gx - ix, gy - iy
    fx, fy = (fx * fx * (3 - 2 * fx))[:, None], (fy * fy * (3 - 2 * fy))[:, None]
    lower = grid[iy, ix] * (1 - fx) + grid[iy, ix + 1] * fx
    upper = grid[iy + 1, ix] * (1 - fx) + grid[iy + 1, ix + 1] * fx
    return lower * (1 - fy) + upper * fy


def _shape_nail(
    nail: tuple[float, float, float], finger: Finger, q: np.ndarray, v: np.ndarray, pixel: float
) -> tuple[np.ndarray, np.ndarray]:
    """Shape one finger's nail and its pale free edge, each as a cover of 0..1."""
    length, width, overhang = nail
    half = finger.width * (0.80 if finger.thumb else 0.74) * finger.taper
    hl, hw = half * length, half * width
    t = q * finger.length - (finger.length - hl * 1.05 + overhang * finger.width)
    along, across = (t / hl) ** 2, (v / hw) ** 2
    shape = np.sqrt(np.sqrt(along * along + across * across))  # between an oval and a rectangle
    cover = ((1.0 - shape) * hw / pixel + 0.5).clip(0.0, 1.0)
    return cover, cover * ((t - hl * 0.62) / pixel + 0.5).clip(0.0, 1.0)


class _Canvas:
    """The fields that the parts of a hand are drawn into, all (H, W)."""

    def __init__(self, hand: Hand, scene: Scene) -> None:
        self.hand, self.scene, self.pixel = hand, scene, 1.0 / scene.scale
        self.x, self.y = scene.make_grid()
        self.palm = measure_body(hand, self.x, self.y)
        self.distance = self.palm.copy()
        self.height = raise_dome(self.palm, 0.10)
        inside = self.palm < 0.02
        self.height[inside] += raise_body(hand, self.x[inside], self.y[inside])
        self.dark = np.zeros(self.x.shape)  # knuckles
        self.flush = np.zeros(self.x.shape)  # redness
        self.nearest = np.full(self.x.shape, 9.0)  # distance to the nearest finger drawn so far
        self.seam = np.zeros(self.x.shape)  # dark lines where fingers touch
        # (box, cover, colour, weight, gloss) of nails and rings, painted over the skin
        self.worn: list[tuple[Box, np.ndarray, np.ndarray, float, float]] = []

    def add_finger(self, number: int) -> None:
        """Join one finger to the hand and remember what it wears."""
        hand, pixel, finger = self.hand, self.pixel, self.hand.fingers[number]
        box = self.scene.cut_out(*finger.place([-0.3, -0.3, 0.5, 1.08, 1.08], [-1, 1, 0, -1, 1]), 0.16)
        d, h, q, v = measure_finger(finger, self.x[box], self.y[box])
        other, palm = self.nearest[box], self.palm[box]
        mine = d < other
        seam = (1.0 - np.abs(d - other) / (0.028 + pixel)).clip(0.0) * (1.0 - np.maximum(d, other) / 0.03).clip(0.0)
        self.seam[box] = np.maximum(self.seam[box], seam * (palm / 0.05 + 0.2).clip(0.0, 1.0))
        self.nearest[box] = np.minimum(other, d)
        self.distance[box] = np.minimum(self.distance[box], smooth_min(palm, d, 0.07))
        self.height[box] = np.where(mine, smooth_max(self.height[box], h, 0.04), self.height[box])
        own = (0.5 - d / pixel).clip(0.0, 1.0) * mine
        self.flush[box] += own * (1.0 - ((q - 0.97) / 0.24) ** 2).clip(0.0)
        if not hand.palmar:
            middle = own * hand.person.knuckle * (1.0 - 0.6 * (v / finger.width) ** 2).clip(0.0)
            for joint, wide in ((0.52, 0.13),) if finger.thumb else ((0.46, 0.11), (0.74, 0.07)):
                self.dark[box] += middle * (1.0 - ((q - joint) / wide) ** 2).clip(0.0)
            nail, free = _shape_nail(hand.person.nail, finger, q, v, pixel)
            self.worn.append((box, nail * own, hand.nail_colour, 0.95 if hand.polished else 0.75, 0.12))
            if not hand.polished:
                self.worn.append((box, free * own, np.array([0.97, 0.94, 0.90]), 0.7, 0.0))
        if hand.ring and hand.ring.finger == number:
            self._add_ring(hand.ring, finger, box, own, q, v)

    def _add_ring(self, ring: Ring, finger: Finger, box: Box, own: np.ndarray, q: np.ndarray, v: np.ndarray) -> None:
        t = (q - ring.at) * finger.length
        band = np.abs(t - 0.3 * v * v / finger.width)  # bowed, because it runs around a cylinder
        band = own * ((ring.height / 2 - band) / self.pixel + 0.5).clip(0.0, 1.0)
        shine = (1.0 - 0.55 * (v / finger.width) ** 2)[..., None]
        self.height[box] += 0.02 * band
        self.worn.append((box, band, shine * np.array(ring.metal) / 255.0, 1.0, 0.1))
        if ring.stone and not self.hand.palmar:
            stone = ((0.05 - np.sqrt(v * v + t * t)) / self.pixel + 0.5).clip(0.0, 1.0)
            self.worn.append((box, stone, np.array(ring.stone) / 255.0, 1.0, 0.3))

    def colour_skin(self) -> np.ndarray:
        """Colour the hand, without light: (H, W, 3)."""
        hand, x, y = self.hand, self.x, self.y
        if hand.palmar:
            self.flush += 0.7 * raise_bump(x, y, -0.24, 0.36, 0.25, 0.35) + 0.6 * raise_bump(x, y, 0.28, 0.35, 0.2, 0.4)
            self.flush += 0.6 * raise_bump(x, y, 0.0, 0.9, 0.45, 0.15)
        else:
            for finger in hand.fingers[1:]:
                kx, ky = finger.place(KNUCKLE_AT, 0.0)
                self.dark += 0.55 * hand.person.knuckle * raise_bump(x, y, kx, ky, 0.12, 0.13)
        albedo = np.empty((*x.shape, 3))
        albedo[:] = hand.skin
        on = self.distance < self.pixel
        skin = albedo[on] + _look_up_blotches(hand.blotches, x[on], y[on])
        skin *= 1.0 - self.dark[on][:, None] * np.array([0.75, 1.0, 1.05])  # browner, not greyer
        albedo[on] = skin * (1.0 + (self.flush[on] * hand.person.flush)[:, None] * np.array([0.03, -0.09, -0.07]))
        _draw_marks(hand, self.scene, albedo)
        return albedo


def _cast_shadow(distance: np.ndarray, scene: Scene) -> np.ndarray:
    """Cast the hand's shadow on the ground, its outline shifted and soft; returns darkness (H, W) in 0..1."""
    dx, dy = (round(shift * scene.scale) for shift in scene.shadow_shift)
    rows, cols = (np.clip(np.arange(n) - d, 0, n - 1) for n, d in zip(distance.shape, (dy, dx), strict=True))
    cast = (0.5 - distance[rows][:, cols] / scene.shadow_soft).clip(0.0, 1.0)
    return scene.shadow_dark * cast * cast * (3 - 2 * cast)


def _blur(picture: np.ndarray, weight: float) -> np.ndarray:
    """Blur over three pixels along both axes, the neighbours weighing ``weight`` each."""
    for _ in range(2):
        pad = np.pad(picture, [(1, 1), (0, 0), (0, 0)], mode="edge")
        picture = (picture * (1 - 2 * weight) + weight * (pad[:-2] + pad[2:])).swapaxes(0, 1)
    return picture


def render(hand: Hand, scene: Scene) -> np.ndarray:
    """Draw a posed hand in its scene: (H, W, 3) uint8, as large as the scene's grain."""
    canvas = _Canvas(hand, scene)
    for number in range(5):
        canvas.add_finger(number)
    albedo = canvas.colour_skin()
    gloss = np.zeros(albedo.shape[:2])
    for box, cover, colour, weight, shine in canvas.worn:
        _paint(albedo[box], weight * cover, colour)
        gloss[box] += shine * cover
    distance, height = canvas.distance, canvas.height
    if scene.sleeve:
        x, (edge, cloth) = canvas.x, scene.sleeve
        sleeve = np.maximum(np.abs(x) - hand.person.wrist * 1.35 - 0.07, canvas.y - edge - 0.05 * x * x)
        _paint(albedo, (0.5 - sleeve * scene.scale).clip(0.0, 1.0), np.array(cloth))
        height = np.where(sleeve < 0, raise_dome(sleeve, 0.14), height)
        distance = np.minimum(distance, sleeve)

    gy, gx = np.gradient(height, canvas.pixel)
    lx, ly, lz = scene.light
    lambert = (lz - gx * lx - gy * ly).clip(0.0) / np.sqrt(1.0 + gx * gx + gy * gy)
    shade = scene.ambient + (1.0 - scene.ambient) * lambert / lz
    shade = (shade + gloss * lambert) * (1.0 - 0.5 * canvas.seam)

    across = np.linspace(-0.5, 0.5, height.shape[1])[None, :] * scene.slope[0]
    down = np.linspace(-0.5, 0.5, height.shape[0])[:, None] * scene.slope[1]
    level = 1.0 + across + down
    ground = (level * (1.0 - _cast_shadow(distance, scene)))[..., None] * scene.background
    cover = (0.5 - distance * scene.scale).clip(0.0, 1.0)[..., None]
    picture = ground + cover * (albedo * (shade * level)[..., None] * scene.gain - ground)
    picture = _blur(picture, scene.blur) + scene.grain[..., None]
    return (picture.clip(0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
