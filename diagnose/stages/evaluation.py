"""The evaluation after the recorded steps: how it is done, and what its figures are."""

from run.findings import CAUSE, DECLARED, SKIPPED, WRONG, Row

EVALUATE = "call model.eval() before the evaluation, and model.train() before the next batches"
TRAINING_MODE = Row(
    "evaluation.batchnorm_training",
    CAUSE,
    "BatchNorm is in training mode during the evaluation: figures depend on the batches, and its "
    "running statistics move",
    help=EVALUATE,
    matters=WRONG,
)
RANDOM = Row(
    "evaluation.dropout",
    CAUSE,
    "dropout is active during the evaluation",
    help=f"{EVALUATE}; F.dropout needs training=self.training",
    matters=WRONG,
)
GRADIENTS = Row(
    "evaluation.gradients_on",
    DECLARED,
    "gradients are on during the evaluation, which costs memory and changes no figure",
    help="evaluate under torch.no_grad()",
)
OTHER_NETWORK = Row(
    "evaluation.other_network",
    CAUSE,
    "another network is evaluated than the one that is trained (such as a copy or an average)",
    help="evaluate the network that the optimizer steps",
    matters=WRONG,
)
SWAPPED = Row(
    "evaluation.photos_swapped",
    CAUSE,
    "photo_1 and photo_2 are swapped in the evaluation, not in training ({pairs} pairs)",
    help="pass the photos in the same order as in training",
    matters=WRONG,
)
PREPARED = Row(
    "evaluation.prepared_otherwise",
    CAUSE,
    "photos are prepared otherwise than in training: {evaluated} (in training: {trained})",
    help="prepare photos in one way for both",
    at=("dataset",),
)
CUT = Row(
    "evaluation.cut_at_half",
    CAUSE,
    "the printed validation accuracy {reported} is that of the single logit cut at 0.5, where 0 is "
    "the middle (cut at 0: {accuracy:.4f})",
    help="cut a logit at 0, or its sigmoid at 0.5",
    matters=WRONG,
)
FOUND = Row(
    "evaluation.predictions",
    CAUSE,
    "of the {pairs} evaluated pairs: {found}",
    help="look at the recorded predictions: compare --predictions FILE, then diagnose predictions",
    matters=WRONG,
)
VERDICT = Row(
    "evaluation.verdict",
    DECLARED,
    "the accuracy of the {pairs} evaluated pairs on the official labels is {accuracy:.4f} "
    "(constant predictor: {constant:.4f})[: {found}]",
)
NOT_KNOWN = Row(
    "evaluation.unknown",
    SKIPPED,
    "{unknown} of {pairs} evaluated pairs could not be identified",
    is_partial=True,
)
BOTH_ORDERS = Row(
    "evaluation.both_orders",
    SKIPPED,
    "each of {pairs} pairs is evaluated in both orders; the first is judged, and the printed "
    "figure is not",
    is_partial=True,
)
NO_LOGITS = Row(
    "evaluation.no_logits",
    SKIPPED,
    "the evaluation has neither one nor two logits for each pair",
)
NONE = Row(
    "evaluation.none",
    SKIPPED,
    "no evaluation was seen after the recorded steps",
    is_partial=True,
)
