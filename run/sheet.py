"""Contact sheets, 1,200 pixels wide: the most confident errors, or a ranked series."""

import io

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from disk.errors import stop, stop_on
from disk.files import replace_file

WIDTH, GAP, TEXT = 1200, 12, 18  # pixels; TEXT is the height of a letter
ERRORS = 12  # pairs on a sheet
INK, PAPER, GREEN, RED = (30, 30, 30), (255, 255, 255), (20, 130, 60), (190, 40, 40)


def draw_errors(path, pairs, names, folder, scores):
    """Draws the pairs [P] that the log-probabilities [P, 2] get most confidently wrong.

    names [P, 2]: file names in folder. The preferred photo has a green frame, the one that the
    model predicted a red one. Ends the program where a photo is missing.
    """
    wrong = np.flatnonzero(scores.argmax(1) != pairs["label"])
    margin = np.abs(scores[:, 0] - scores[:, 1])
    worst = wrong[np.argsort(-margin[wrong], kind="stable")][:ERRORS]
    half, cell = (WIDTH - 3 * GAP) // 2, (WIDTH - 3 * GAP) // 4 - GAP // 2
    height = cell + 3 * TEXT + 3 * GAP
    image = blank(max(1, -(-len(worst) // 2)) * height + GAP)
    for place, row in enumerate(worst):
        left, top = GAP + place % 2 * (half + GAP), GAP + place // 2 * height
        label, pair = pairs["label"][row], pairs[row]
        for side in (0, 1):
            corner = left + side * (cell + GAP), top
            color = GREEN if side == label else RED
            put_photo(image, folder / names[row, side], corner, cell, color)
        chance = 1 / (1 + np.exp(-margin[row]))
        share = max(pair["preference"], 1 - pair["preference"])
        better, chosen = ("left", "right") if label == 0 else ("right", "left")
        lines = (
            f"series {pair['series']}, photos {pair['photo_1']} and {pair['photo_2']}",
            f"{better} is preferred ({share:.2f} of the people), {chosen} predicted ({chance:.2f})",
        )
        write(image, lines, left, top + cell + GAP // 2)
    if not len(worst):
        write(image, ["no pair is predicted wrongly"], GAP, GAP)
    save(image, path)


def draw_ranking(path, photos, words, title):
    """Draws photos (paths) best first, words under each; the title says how good the model is."""
    cell = (WIDTH - 5 * GAP) // 4
    height = cell + 3 * TEXT + 2 * GAP
    head = GAP + TEXT
    image = blank(head + -(-len(photos) // 4) * height + GAP)
    write(image, [title], GAP, GAP // 2)
    for place, photo in enumerate(photos):
        corner = GAP + place % 4 * (cell + GAP), head + GAP + place // 4 * height
        put_photo(image, photo, corner, cell, GREEN if place == 0 else INK)
        name = photo.name if len(photo.name) <= 26 else photo.name[:23] + "..."
        write(image, (f"{place + 1}. {name}", words[place]), corner[0], corner[1] + cell + GAP // 2)
    save(image, path)


def blank(height):
    """White paper."""
    return Image.new("RGB", (WIDTH, height), PAPER)


def put_photo(image, path, corner, side, color):
    """Fits a photo into a square of `side` pixels at corner, framed."""
    if not path.is_file():
        stop(__file__, f"{path}: the photo is missing, --sheet needs it")
    with stop_on(__file__, path, Exception), Image.open(path) as photo:
        photo = photo.convert("RGB")
    photo.thumbnail((side - 8, side - 8))
    x, y = (c + (side - s) // 2 for c, s in zip(corner, photo.size, strict=True))
    frame = [x - 4, y - 4, x + photo.width + 3, y + photo.height + 3]
    ImageDraw.Draw(image).rectangle(frame, fill=color)
    image.paste(photo, (x, y))


def write(image, lines, left, top):
    """Writes lines of text from a corner on."""
    font = ImageFont.load_default(TEXT)
    draw = ImageDraw.Draw(image)
    for i, line in enumerate(lines):
        draw.text((left, top + i * (TEXT + 4)), line, fill=INK, font=font)


def save(image, path):
    """Writes a PNG, whole or not at all."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    replace_file(path, lambda file: file.write(buffer.getvalue()))
