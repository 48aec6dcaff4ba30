"""Which pairs make a batch, how many, and in what order."""

from run.findings import CAUSE, SKIPPED, UNEXPLAINED, WRONG, Row

GROWING = Row(
    "pairs.batches_grow",
    CAUSE,
    "each batch has more pairs than the one before: {sizes}",
    help="begin each batch with new lists: no default argument, or attribute, that is appended to",
    matters=WRONG,
    at=("dataset", "loader"),
)
BATCH_SIZE = Row(
    "pairs.batch_size",
    CAUSE,
    "the batch size is {batch_size} (reference: {reference})",
    help="make batches of {reference} pairs: batch_size={reference} in a DataLoader",
    flag="--batch-size {batch_size}",
)
ACCUMULATED = Row(
    "pairs.accumulated",
    CAUSE,
    "the optimizer steps after every {batches} batches (reference: after each)",
    help="call optimizer.step() after every batch",
    at=("step",),
)
UNEVEN = Row(
    "pairs.accumulated_unevenly",
    CAUSE,
    "the optimizer steps after {batches} batches (reference: after each)",
    help="call optimizer.step() after every batch",
    at=("step",),
)
UNSHUFFLED = Row(
    "pairs.unshuffled",
    CAUSE,
    "pairs are in the order of the list (reference: shuffled)",
    help="shuffle the pairs of every epoch, as shuffle=True in a DataLoader does",
)
TWICE = Row(
    "pairs.twice_in_batch",
    CAUSE,
    "{twice} of {pairs} pairs appear twice in their batch",
    help="draw every pair once per epoch, without replacement",
)
AGAIN = Row(
    "pairs.part_of_the_list",
    CAUSE,
    "pairs repeat after {pairs} of {listed}: a part of the list is used, or pairs "
    "are drawn with replacement",
    help="draw every pair of train_pairlist.txt once per epoch",
)
PART = Row(
    "pairs.part_in_epoch",
    CAUSE,
    "an epoch has {items} pairs (reference: all {listed} of train_pairlist.txt)"
    "[; {epochs} recorded epochs never had these lines of it: {missing}]",
    help="give the loader every line of train_pairlist.txt",
)
DROPPED = Row(
    "pairs.last_batch_dropped",
    CAUSE,
    "the last {dropped} pairs of every epoch are dropped: drop_last=True (reference: all are used)",
    help="use drop_last=False",
)
LEFT_EARLY = Row(
    "pairs.epoch_left_early",
    CAUSE,
    "an epoch ends after {pairs} of {items} pairs: the loop is left before its loader ends",
    help="train on every batch of the loader: no break, no limit of batches per epoch",
)
SAME_ORDER = Row(
    "pairs.same_order",
    CAUSE,
    "the pairs of an epoch are in the order of the epoch before ({pairs} pairs seen of both)",
    help="shuffle again for every epoch: shuffle=True, or sampler.set_epoch(epoch)",
)
ONE_SERIES = Row(
    "pairs.one_series_in_batch",
    CAUSE,
    "every batch holds pairs of one series alone (reference: pairs are shuffled one by one)",
    help="shuffle the pairs, not the series",
)
BLOCKS = Row(
    "pairs.neighbors_in_batch",
    CAUSE,
    "every batch holds neighboring lines of the list: the batches are shuffled, the pairs are not",
    help="shuffle the pairs, not the batches",
)
FIRST_LINES = Row(
    "pairs.first_lines",
    CAUSE,
    "the first {pairs} pairs are all among {among} neighboring lines of the {listed} in the list, "
    "as a shuffle of the list is not (p = {p}): the list is shuffled in a small buffer, or a part "
    "of it is used",
    help="shuffle all of the list: shuffle=True in a DataLoader, or a buffer as long as the list",
)
FOLLOWS = Row(
    "pairs.follows_the_list",
    CAUSE,
    "the order of the pairs follows {what} (rank correlation {correlation} over {pairs} pairs; a "
    "shuffle has 0)",
    help="shuffle all of the list: shuffle=True in a DataLoader",
)
ALIKE = Row(
    "pairs.alike_in_batch",
    CAUSE,
    "in every batch all pairs are alike in {what} (batch by batch: {values}), as a shuffle of the "
    "pairs does not make them (p = {p})",
    help="shuffle the pairs one by one: no sampler or sort that groups them",
    at=("loader", "dataset"),
)
NEIGHBORS = Row(
    "pairs.neighbors_in_turn",
    CAUSE,
    "in {count} of {pairs} places a line of the list is followed by the next one, which a shuffle "
    "of the pairs does in about {usual}: groups of lines are shuffled, such as series, not pairs",
    help="shuffle the pairs: shuffle=True in a DataLoader",
)
VALIDATION = Row(
    "pairs.validation",
    CAUSE,
    "{validation} of {pairs} training pairs are in val_pairlist.txt",
    help="train on the pairs of train_pairlist.txt alone",
    matters=WRONG,
    at=("dataset", "loader"),
)
ONE_PHOTO = Row(
    "pairs.one_photo_twice",
    CAUSE,
    "both photos are the same photo in {same} of {pairs} pairs",
    help="copy before swapping: a, b = b.clone(), a.clone(); no views of what is written into",
    matters=WRONG,
    at=("dataset", "loader"),
)
NOT_OFFICIAL = Row(
    "pairs.not_official", UNEXPLAINED, "{strange} of {pairs} pairs are not in the official lists"
)
NO_ORDER = Row(
    "pairs.unknown",
    SKIPPED,
    "the pairs could not be identified, so their order was not judged",
)
NOTHING = Row(
    "pairs.not_seen",
    SKIPPED,
    "the pairs could not be identified, so their order and the batch size were not judged",
)
