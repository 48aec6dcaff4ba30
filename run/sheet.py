"""Contact sheets, 1,200 pixels wide: the most confident errors, or a ranked series."""

import io
import sys
from itertools import accumulate

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from disk.errors import fail_on, say, stop
from disk.files import replace_file
from run.scores import constant_accuracy

WIDTH, MARGIN, APART = 1200, 20, 36  # pixels; APART: between two pairs, or photos of a ranking
PHOTO = 254, 190  # widest and highest, pixels
FRAME, TEXT, LINE = 4, 16, 21  # TEXT is the height of a letter, LINE that of a line
ERRORS = 12  # pairs on a sheet
INK, PAPER, GREEN, RED = (30, 30, 30), (255, 255, 255), (20, 130, 60), (190, 40, 40)


def draw_errors(path, pairs, names, folder, scores, run):
    """Draws the pairs [P] that the log-probabilities [P, 2] get most confidently wrong.

    names [P, 2]: file names in folder; run: whose predictions these are. The preferred photo has
    a green frame, the one that the model predicted a red one. Ends the program where a photo is
    missing.
    """
    wrong = np.flatnonzero(scores.argmax(1) != pairs["label"])
    margin = np.abs(scores[:, 0] - scores[:, 1])
    blocks = []
    for place, row in enumerate(wrong[np.argsort(-margin[wrong], kind="stable")][:ERRORS], 1):
        pair, label = pairs[row], pairs["label"][row]
        people = 1 - pair["preference"] if label else pair["preference"]
        words = [f"model: {1 / (1 + np.exp(-margin[row])):.2f}"] * 2
        words[label] = f"people: {people:.2f}"
        colors = [GREEN, RED][:: -1 if label else 1]
        title = f"{place}. series {pair['series']}, photos {pair['photo_1']} and {pair['photo_2']}"
        photos = [folder / name for name in names[row]]
        blocks.append(draw_block(title, photos, colors, words))
    chance = constant_accuracy(pairs["label"])
    head = f"{run}: accuracy {1 - len(wrong) / len(pairs):.4f}, {chance:.4f} by chance"
    shown, legend = f"no error in {len(pairs)} pairs", []
    if blocks:
        shown = f"{len(blocks)} of {len(wrong)} errors in {len(pairs)} pairs, most confident first"
        legend = [("preferred by people", GREEN), ("predicted by the model", RED)]
    save(path, blocks, [head, shown], legend)


def draw_ranking(path, photos, words, title):
    """Draws photos (paths) best first, words under each; the title says how good the model is."""
    blocks = []
    for place, (photo, word) in enumerate(zip(photos, words, strict=True), 1):
        name = photo.name if len(photo.name) <= 26 else photo.name[:23] + "..."
        color = GREEN if place == 1 else INK
        blocks.append(draw_block(f"{place}. {name}", [photo], [color], [word]))
    save(path, blocks, [title], [])


def draw_block(title, paths, colors, words):
    """Photos side by side, each framed in its color, above a title and a word under each."""
    framed = [open_photo(*photo) for photo in zip(paths, colors, strict=True)]
    lefts = [0, *accumulate(photo.width + FRAME for photo in framed)]
    texts = [(0, 0, title), *((left, LINE, word) for left, word in zip(lefts, words, strict=False))]
    font, height = ImageFont.load_default(TEXT), max(photo.height for photo in framed)
    width = max(
        lefts[-1] - FRAME, *(int(left + font.getlength(text)) + 1 for left, _, text in texts)
    )
    block = Image.new("RGB", (width, height + FRAME + 2 * LINE), PAPER)
    for left, photo in zip(lefts, framed, strict=False):
        block.paste(photo, (left, height - photo.height))
    for left, down, text in texts:
        ImageDraw.Draw(block).text((left, height + FRAME + down), text, INK, font)
    return block


def open_photo(path, color):
    """The photo within PHOTO, with a frame of this color around it."""
    if not path.is_file():
        stop(__file__, f"{path}: the photo is missing, --sheet needs it")
    with fail_on(__file__, path, Exception), Image.open(path) as photo:
        photo = ImageOps.contain(photo.convert("RGB"), PHOTO)
    return ImageOps.expand(photo, FRAME, color)


def save(path, blocks, head, legend):
    """Writes a PNG, whole or not at all: lines of text, a legend, and the blocks in rows."""
    rows, room = [], 0
    for block in blocks:
        if block.width > room:
            rows, room = [*rows, []], WIDTH - 2 * MARGIN
        rows[-1].append(block)
        room -= block.width + APART
    heights = [max(block.height for block in row) for row in rows]
    top = 2 * MARGIN + len(head) * (LINE + 4)
    image = Image.new("RGB", (WIDTH, top + sum(heights) + MARGIN * len(rows)), PAPER)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(TEXT + 2)
    for place, line in enumerate(head):
        draw.text((MARGIN, MARGIN + place * (LINE + 4)), line, INK, font)
    for place, (word, color) in enumerate(legend):
        left, y = 720 + 225 * place, MARGIN + LINE + 6
        draw.rectangle([left, y, left + TEXT, y + TEXT], color)
        draw.text((left + TEXT + 8, y - 2), word, INK, font)
    for row, height in zip(rows, heights, strict=True):
        left, top = MARGIN, top + height + MARGIN
        for block in row:
            image.paste(block, (left, top - MARGIN - block.height))
            left += block.width + APART
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    replace_file(path, lambda file: file.write(buffer.getvalue()))
    say(f"wrote {path}", sys.stderr)
