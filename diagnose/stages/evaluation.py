"""The evaluation after the recorded steps: how it is done, and what its figures are."""

from run.findings import CAUSE, DECLARED, DIFFERENT, HARMLESS, SKIPPED, UNEXPLAINED, WRONG, Row

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
    "another network is evaluated than the one that is trained",
    help="evaluate the network that the optimizer steps",
    matters=WRONG,
)
COPY = Row(
    "evaluation.copy",
    HARMLESS,
    "a copy of the network is evaluated, with the values of now",
    matters=DIFFERENT,
)
EARLIER = Row(
    "evaluation.earlier_parameters",
    CAUSE,
    "the evaluated parameters are those after {taken} of {done} updates",
    help="evaluate the parameters of now, or copy them after each update",
    matters=WRONG,
)
EXPONENTIAL = Row(
    "evaluation.exponential_average",
    DECLARED,
    "the evaluated parameters are an exponential average of those after each update, with decay "
    "{decay}",
    help="to compare with the reference, evaluate the parameters themselves",
)
MEAN = Row(
    "evaluation.mean_of_parameters",
    DECLARED,
    "the evaluated parameters are the mean of those after the last {count} of {done} updates",
    help="to compare with the reference, evaluate the parameters themselves",
)
OTHER_VALUES = Row(
    "evaluation.other_parameters",
    CAUSE,
    "the evaluated parameters are not those after the last update, after no earlier one, and no "
    "average of them",
    help="look at what changes the parameters between the last update and the evaluation",
    matters=WRONG,
)
STALE_STATISTICS = Row(
    "evaluation.earlier_statistics",
    CAUSE,
    "the running statistics of BatchNorm in the evaluation are those after {taken} of {done} "
    "updates",
    help="copy the buffers of the network with its parameters",
    matters=WRONG,
)
OTHER_STATISTICS = Row(
    "evaluation.other_statistics",
    DECLARED,
    "the running statistics of BatchNorm in the evaluation are not those after the last update",
    help="find what moves them between the last update and the evaluation",
)
OVERWRITTEN = Row(
    "evaluation.state_overwritten",
    CAUSE,
    "the state dict that is loaded after {done} updates was taken after {taken}, without a copy: "
    "it holds the parameters of now, and loading it changes nothing",
    help="keep copy.deepcopy(model.state_dict())",
    matters=WRONG,
)
SAVED_LATE = Row(
    "evaluation.state_saved_late",
    DECLARED,
    "the state dict[ in {file}] that is saved after {done} updates was taken after {taken}, "
    "without a copy: it holds the parameters after {done}",
    help="save model.state_dict() itself where it is the best, or keep a copy.deepcopy of it",
)
NOT_THE_BEST = Row(
    "evaluation.not_the_best",
    CAUSE,
    "{file} is written after evaluation {written}, not after each that is the best so far (printed "
    "accuracies: {figures})",
    help="write it where the accuracy is higher than every one before",
    matters=WRONG,
)
LOWEST_LOSS = Row(
    "evaluation.lowest_loss",
    DECLARED,
    "{file} is written where the printed validation loss is the lowest so far, not where the "
    "accuracy is the highest",
)
ALONE = Row(
    "evaluation.photos_alone",
    SKIPPED,
    "{photos} photos were evaluated one by one and no two of them met in a torch operation: how "
    "their scores are compared was not recorded",
)
SEVERAL = Row(
    "evaluation.several_times",
    SKIPPED,
    "each of {pairs} pairs is evaluated {times} times; the mean of the logits is judged, and the "
    "printed figure is not",
    is_partial=True,
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
SERIES = Row(
    "evaluation.series_trained_on",
    CAUSE,
    "{count} of the {pairs} evaluated pairs are held out from the training list, and of series "
    "that are trained on with other pairs: their photos are known",
    help="evaluate on the pairs of val_pairlist.txt, whose series nothing is trained on",
    matters=WRONG,
)
CUT = Row(
    "evaluation.cut_at_half",
    CAUSE,
    "the printed validation accuracy {reported} is that of {ways} (cut in the middle: "
    "{accuracy:.4f})",
    help="predict the larger of two logits; cut a single logit at 0, or its sigmoid at 0.5",
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
NOT_AS_TRAINED = Row(
    "evaluation.not_as_in_training",
    UNEXPLAINED,
    "{unknown} of {pairs} evaluated pairs are not recognized as photos of the dataset, while all "
    "{trained} pairs of later training are: they are prepared in another way than in training, or "
    "changed before they enter the network",
    help="prepare photos in one way for both",
    at=("dataset",),
)
BOTH_ORDERS = Row(
    "evaluation.both_orders",
    SKIPPED,
    "each of {pairs} pairs is evaluated in both orders; the first is judged, and the printed "
    "figure is not",
    is_partial=True,
)
NEVER_RESET = Row(
    "evaluation.never_reset",
    CAUSE,
    "the printed validation accuracies go on from one evaluation to the next, in {count} "
    "evaluations: the sums are never reset",
    help="set the sums of right pairs and of pairs to 0 before each evaluation",
    matters=WRONG,
)
OF_TRAINING = Row(
    "evaluation.of_training",
    CAUSE,
    "the printed validation accuracy is that of the training pairs: of {which}",
    help="print the accuracy of the evaluated pairs",
    matters=WRONG,
)
PAIR_DIFFERS = Row(
    "evaluation.pair_differs",
    UNEXPLAINED,
    "{count} of {total} pairs that are evaluated several times have other logits each time, though "
    "the parameters are the same, first {photos}: something in the evaluation is random",
    help="evaluate without random changes of photos, features or logits",
    matters=WRONG,
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
