"""The zoo: silent bugs planted into four foreign trainers, and what each must be called.

    python tests/zoo/zoo.py [--real] [--as-is] [--script plain] [--draw 0] [PLANT ...]

The trainers were written apart from this project and are run unchanged under record.py. Prints
the kill matrix: planted, said. Without names: of every script each plant alone and the clean one
over 20 seeds, and of the first 100 draws of two or three. --real takes the real ResNet-50 in the
place of a tiny backbone; `real` as a PLANT means the plants of REAL. The values of the plants
are drawn; --draw: the seed of that.
"""

import contextlib
import functools
import io
import json
import random
import runpy
import sys
import tempfile
from pathlib import Path
from unittest import mock

import torch
from torch import nn

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent))

import make_demo  # noqa: E402
import train_resnet  # noqa: E402
from diagnose import compare, record  # noqa: E402
from run.findings import text_of  # noqa: E402

# What the value of a plant is drawn from; no power of two, of which rounding would hide faults.
VALUES = {
    "batch_size": (3, 5, 6, 7, 12),
    "accumulate": (3, 5),
    "pad_color": (0.11, 0.9),
    "normalize_by": (0.3, 0.45),
    "bn_momentum": (0.011, 0.4),
    "bn_eps": (2e-4, 2e-3),
    "dropout_each": (0.15, 0.7),
    "dropout_features": (0.15, 0.7),
    "hidden_layer": (33, 70, 100, 130),
    "hidden_dropout": (0.15, 0.7),
    "hidden_dropouts": (0.15, 0.7),
    "logits_scaled": (2.3, 30.0),
    "clip_scaled": (0.11, 0.9),
    "small_photos": (0.55, 0.9),
    "merge_scaled": (0.2, 0.9),
    "smoothing": (0.03, 0.4),
    "focal": (0.7, 3.7),
    "class_weights": (1.2, 5.0),
    "pos_weight": (1.2, 5.0),
    "margin": (0.6, 3.0),
    "loss_factor": (0.1, 0.9),
    "loss_scaled_unscaled": (300.0, 3000.0),
    "clip_norm": (0.03, 0.2),
    "clip_each": (0.003, 0.02),
    "clip_then_scale": (0.1, 0.9),
    "clip_value": (3e-4, 2e-3),
    "rates_scaled": (3.0, 30.0),
    "weight_decay": (1e-4, 4e-4),
    "dampening": (0.1, 0.9),
    "bias_rate": (1.5, 5.0),
    "backward_again": (3, 5),
    "step_again": (3, 5),
    "ema": (0.6, 0.95),
    "decay_after": (0.991, 0.999),
    "warmup": (3, 5, 7),
    "schedule_first": (0.6, 0.95),
    "loss_sum_over_n": (20, 24, 48, 60),
    "first_pairs_only": (3, 5, 6),
    "stale_index": (3, 5, 7, 9),
    "shifted_labels": (1, 2, 3, 5),
    "prints_exponent": (1.3, 7.0),
    "ranking_margin": (0.2, 0.9),
    "eval_average": (0.6, 0.99),
    "window_shuffle": (9, 17, 23),
    "l1_on_norms": (1e-4, 1e-2),
    "softmax_plus": (0.003, 0.1),
    "added_margin": (0.1, 2.0),
    "prints_smoothed": (0.6, 0.98),
    "eval_moved": (1.001, 1.2),
    "eval_copy_moved": (1.01, 1.2),
    "eval_dropout_alone": (0.3, 0.7),
    "eval_noised": (0.1, 0.5),
    "eval_random": (0.2, 0.8),
    "erased": (8, 12, 17, 23),
    "mixed_photos": (0.6, 0.9),
    "stored_again": (15, 40, 61, 77),
    "part_shown": (0.3, 0.6),
    "clip_tensors": (1e-5, 1e-4),
    "smoothed_backward": (0.1, 0.4),
    "damped_buffers": (0.2, 0.8),
    "gamma": (1.2, 2.0),
    "padded_first": (0.06, 0.2),
    "noised": (0.02, 0.1),
    "renormed_head": (0.5, 2.0),
    "limited_weights": (0.01, 0.03),
    "limited_step": (2e-7, 2e-6),
}


def drawn(plant, seed):
    """The value of a plant, drawn with a seed, of three digits; None where it has none."""
    choices = VALUES.get(plant)
    if choices is None:
        return None
    rng = random.Random(f"{plant} {seed}")
    whole = all(isinstance(choice, int) for choice in choices)
    return rng.choice(choices) if whole else float(f"{rng.uniform(*choices):.3g}")


VALUE = object()  # replaced by the value that was drawn


class Words(str):
    """Words that a value must have, among others."""


# plant: (id of the finding, values that it must have, ...), stages in the order of execution.
EXPECTED = {
    "no_shuffle": ("pairs.unshuffled", {}),
    "batch_size": ("pairs.batch_size", {"batch_size": VALUE}),
    "same_batch": ("pairs.part_of_the_list", {}),
    "accumulate": ("pairs.accumulated", {"batches": VALUE}),
    "labels_inverted": ("labels.inverted", {}),
    "ranks_as_winner": ("labels.ranks_as_photo_numbers", {}),
    "photos_turned": ("labels.photos_swapped", {}),
    "photos_turned_random": ("labels.some_photos_swapped", {}),
    "winner_first": ("labels.preferred_first", {}),
    "turned_rightly": ("labels.some_second_photo_first", {}),
    "part_wrong": ("labels.not_official", {}),
    "outside_1": ("labels.of_another_line", {"shift": 1}),
    "bgr": ("inputs.channels", {"channels": "BGR"}),
    "no_normalize": ("inputs.not_normalized", {}),
    "normalize_half": ("inputs.normalized_half", {}),
    "normalize_twice": ("inputs.normalized_twice", {}),
    "range255": ("inputs.range_255", {}),
    "crop": ("inputs.crop", {}),
    "squash": ("inputs.squash", {}),
    "pad_black": ("inputs.padding_black", {}),
    "pad_topleft": ("inputs.corner", {}),
    "pad_gray": ("inputs.padding_gray", {}),
    "pad_color": ("inputs.padding", {}),
    "normalize_by": ("inputs.normalized", {"mean": (VALUE, 0.43, 0.57)}),
    "pad_train": ("inputs.padding_train", {}),
    "bicubic": ("inputs.filter", {"filter": "bicubic"}),
    "lanczos": ("inputs.filter", {"filter": "lanczos"}),
    "nearest": ("inputs.filter", {"filter": "nearest"}),
    "no_antialias": ("inputs.no_antialias", {}),
    "hflip": ("inputs.hflip", {}),
    "hflip_random": ("inputs.hflip", {}),
    "vflip": ("inputs.vflip", {}),
    "jitter": ("inputs.normalized_each", {}),
    "grayscale": ("inputs.gray", {"channels": "gray"}),
    "half_input": ("inputs.cast", {"dtype": "float16"}),
    "bf16_input": ("inputs.cast", {"dtype": "bfloat16"}),
    "head_zero": ("start.head_zero", {}),
    "head_fan_out": ("start.head_fan_out", {}),
    "head_default": ("start.head_uniform", {"distribution": "uniform, as PyTorch's default"}),
    "head_xavier": ("start.head_uniform", {"distribution": "Xavier uniform"}),
    "head_orthogonal": ("start.head_std", {}),
    "features_normalized": ("features.normalized", {}),
    "features_sigmoid": ("features.sigmoid", {}),
    "features_tanh": ("features.tanh", {}),
    "dropout_each": ("features.dropout", {"rate": VALUE}),
    "features_relu": ("features.relu", {}),
    "max_pool": ("features.max_pool", {}),
    "two_backbones": ("features.two_backbones", {}),
    "one_pass": ("features.one_pass", {}),
    "half_batches": ("features.own_passes", {"passes": 4}),
    "each_photo": ("features.own_passes", {"passes": 16}),
    "gathered": ("features.one_pass", {}),
    "bn_reset": ("features.statistics_change", {"how": "reset to mean 0 and variance 1"}),
    "bn_no_statistics": ("features.no_statistics", {}),
    "own_norms": ("features.own_batchnorm", {}),
    "bn_eval": ("features.batchnorm_eval", {}),
    "bn_momentum": ("features.batchnorm_momentum", {"momentum": (VALUE,)}),
    "bn_eps": ("features.batchnorm_eps", {"eps": VALUE}),
    "reversed_difference": ("head.reversed_difference", {}),
    "abs_difference": ("head.activation", {}),
    "concat": ("head.concatenated", {}),
    "product": ("head.product", {}),
    "squared_difference": ("head.activation", {"function": "square"}),
    "merge_scaled": ("head.scaled", {"factor": VALUE}),
    "dropout_features": ("head.dropout_features", {"rate": VALUE}),
    "hidden_layer": ("head.hidden", {"widths": (VALUE,), "functions": ("ReLU",)}),
    "hidden_dropout": ("head.dropout", {"rate": VALUE}, "head.hidden", {"functions": ("ReLU",)}),
    "hidden_dropouts": ("head.dropout", {"rate": VALUE}, "head.hidden", {"widths": (130, 60)}),
    "one_logit": ("head.one_logit", {}),
    "no_head_bias": ("head.no_bias", {}),
    "label_invert_loss": ("loss.labels_inverted", {}),
    "logits_swapped": ("loss.logits_swapped", {}),
    "logits_scaled": ("loss.temperature", {"value": VALUE}),
    "smoothing": ("loss.label_smoothing", {"value": VALUE}),
    "focal": ("loss.focal", {"value": VALUE}),
    "class_weights": ("loss.class_weights", {"value": VALUE}),
    "pos_weight": ("loss.class_weights_over_pairs", {"value": VALUE}),
    "softmax_then_ce": ("loss.softmax_twice", {}),
    "softmax_dim0": ("loss.softmax_over_batch", {}),
    "label_columns": ("loss.all_labels", {}),
    # its accuracy is of predictions that equal a share: 0
    "soft_labels": ("loss.soft_labels", {}, "printed.none_of", {}),
    "agreement_weights": ("loss.by_agreement", {}),
    "agreement_weighted_mean": ("loss.by_agreement_over_sum", {}),
    "nll_on_probs": ("loss.nll_of_probabilities", {}),
    "mse": ("loss.mse_of_probabilities", {}),
    "margin": ("loss.margin", {"value": VALUE}),
    "negated": ("loss.factor", {"factor": -1.0}),
    "sum_loss": ("loss.sum", {}),
    "loss_factor": ("loss.factor", {"factor": VALUE}),
    "detach_second": ("gradients.one_side_detached", {"side": 2}),
    "detach_backbone": ("gradients.features_detached", {}),
    "no_zero_grad": ("gradients.not_zeroed", {}),
    "zero_grad_late": ("gradients.removed", {}),
    "zero_grad_to_zero": ("gradients.zeroed", {}),
    "stale_gradient": ("gradients.of_the_batch_before", {}),
    "clip_then_scale": (
        "gradients.factor_of_each",
        {"factors": {"all weights except biases and BatchNorm": VALUE}},
        "gradients.norm_clipped",
        {"norm": 0.1},
    ),
    "clip_each": (
        "gradients.norm_clipped_of_each",
        {"norms": {"the backbone": VALUE, "the head": VALUE}},
    ),
    "backward_again": ("gradients.backward_again", {"times": VALUE}),
    "clip_norm": ("gradients.norm_clipped", {"norm": VALUE}),
    "clip_value": ("gradients.values_clipped", {"bound": VALUE}),
    "one_lr": ("update.one_learning_rate", {}),
    "rates_swapped": ("update.learning_rates_swapped", {}),
    "rates_scaled": ("update.learning_rates", {}),
    "no_momentum": ("update.momentum", {"momentum": (0.0,)}),
    "nesterov": ("update.nesterov", {}),
    "dampening": ("update.dampening", {"dampening": (VALUE,)}),
    "no_weight_decay": ("update.weight_decay", {"weight_decay": (0.0,)}),
    "decay_weights_only": (
        "update.weight_decay",
        {"weight_decay": (0.0,), "parameters": "all biases and BatchNorm parameters"},
    ),
    "weight_decay": ("update.weight_decay", {"weight_decay": (VALUE,)}),
    "adam": ("update.optimizer", {"optimizers": ("Adam",), "weight_decay": (0.0005,)}),
    "adamw": ("update.optimizer", {"optimizers": ("AdamW",), "weight_decay": (0.0005,)}),
    "rmsprop": ("update.optimizer", {"optimizers": ("RMSprop",), "weight_decay": (0.0005,)}),
    "adagrad": ("update.optimizer", {"optimizers": ("Adagrad",), "weight_decay": (0.0005,)}),
    "step_again": ("update.steps_again", {"times": VALUE}),
    "head_missing": ("update.in_no_optimizer", {"parameters": "the head"}),
    "head_made_late": ("update.in_no_optimizer", {"parameters": "the head", "others": 2}),
    "optimizers_in_turn": ("update.in_other_steps", {}),
    "group_added": ("update.in_other_steps", {"parameters": "the head"}),
    "frozen_first": ("update.frozen", {"parameters": "the backbone"}),
    "backbone_frozen": ("update.frozen", {"parameters": "the backbone"}),
    "bn_frozen": ("update.frozen", {"parameters": "BatchNorm parameters"}),
    "bias_rate": ("update.learning_rates", {}),
    "ema": ("update.moving_average", {"decay": VALUE}),
    "decay_after": ("update.multiplied", {"factor": VALUE}),
    "warmup": ("update.learning_rates_scheduled_each", {}),
    "schedule_first": ("update.learning_rates_scheduled_before", {}),
    "maximize": ("update.maximize", {}),
    "optimizer_anew": ("update.momentum_reset", {}),
    "schedule_per_batch": ("update.schedule_within_epoch", {}),
    "metric_inverted": ("printed.accuracy_inverted", {}),
    "epoch_mean_over_batches": ("printed.mean_over_batches", {"where": "since the line before"}),
    "loss_sum_over_n": ("printed.sum_of_means_over_pairs", {"times": VALUE}),
    "loss_last_batch": ("printed.last_batch", {"figure": "loss"}),
    # public bug reports, which no row was written after or which are only described
    "eval_cut_difference": ("evaluation.cut_at_half", {}),
    "eval_cropped": ("evaluation.prepared_otherwise", {}),
    "eval_first_half": ("evaluation.predictions", {"found": "predictions.part_of_val"}),
    "eval_twice": (
        "evaluation.predictions",
        {"found": "predictions.repeated"},
        "evaluation.predictions",
        {"found": "predictions.arithmetic"},
    ),
    "eval_shifted_labels": (
        "evaluation.predictions",
        {"found": "predictions.own_labels_changed"},
    ),
    "eval_noised": ("evaluation.prepared_otherwise", {}),
    "eval_flipped": ("evaluation.prepared_otherwise", {}),
    "eval_bgr": ("evaluation.prepared_otherwise", {}),
    "eval_last_batch": ("evaluation.predictions", {"found": "predictions.arithmetic"}),
    "eval_never_reset": ("evaluation.never_reset", {}),
    "eval_of_training": ("evaluation.of_training", {"which": "all pairs of the epoch"}),
    "eval_random": (
        "evaluation.predictions",
        {"found": "predictions.reported_unexplained"},
    ),
    "eval_random_again": (
        "evaluation.pair_differs",
        {},
        "evaluation.prepared_otherwise",
        {},
        "evaluation.predictions",
        {"found": "predictions.repeated"},
        "evaluation.predictions",
        {"found": "predictions.arithmetic"},
    ),
    "eval_first_state": ("evaluation.state_saved_late", {}),
    "eval_dropout_alone": (
        "evaluation.dropout",
        {},
        "evaluation.predictions",
        {"found": "predictions.reported_unexplained"},
    ),
    "eval_copy_earlier": (
        "evaluation.earlier_parameters",
        {"taken": 1},
        "evaluation.other_network",
        {},
    ),
    "eval_copy_moved": (
        "evaluation.other_parameters",
        {},
        "evaluation.other_network",
        {},
    ),
    "eval_lowest_kept": (  # whose first accuracy is false as well
        "evaluation.not_the_best",
        {},
        "evaluation.predictions",
        {"found": "predictions.reported_unexplained"},
    ),
    "square_broadcast": (
        "loss.every_label",
        {},
        "loss.mse_of_logit",
        {},
        "head.one_logit",
        {},
    ),
    "last_pair_only": (
        "loss.not_reproduced",
        {},
        "loss.no_gradient",
        {"rules": "the row in its batch is 7 or less"},
        "loss.otherwise_cross_entropy",
        {"factors": (8.0,)},
    ),
    "first_pairs_only": (
        "loss.not_reproduced",
        {},
        "loss.no_gradient",
        {},
        "loss.otherwise_cross_entropy",
        {},
    ),
    "relu_last": ("head.logits_activation", {"function": "ReLU"}),
    "softplus_last": ("head.logits_activation", {"function": "softplus"}),
    "loss_of_label_1": (
        "loss.not_reproduced",
        {},
        "loss.no_gradient",
        {"rules": "the label is 0"},
        "loss.otherwise_cross_entropy",
        {},
    ),
    "loss_of_positive": (
        "loss.not_reproduced",
        {},
        "loss.no_gradient",
        {"rules": "the second logit is negative"},
        "loss.otherwise_cross_entropy",
        {},
    ),
    "twice_where_wrong": (
        "loss.not_reproduced",
        {},
        "loss.weighted_rows",
        {"rules": "the prediction is wrong", "times": 2.0},
    ),
    "cut_data": ("gradients.logits_detached", {}),
    "cut_numpy": ("gradients.logits_detached", {}),
    "cut_features": ("gradients.features_detached", {}),
    "unsorted_files": ("labels.photos_permuted", {}),
    "stale_index": ("labels.of_another_row", {}),
    "shifted_labels": ("labels.of_another_line", {"shift": VALUE}),
    "paired_otherwise": ("pairs.paired_otherwise", {}, "features.one_pass", {}),
    "batch_before_photos": ("pairs.photo_of_the_batch_before", {"side": 2}),
    "one_second_photo": ("features.not_two_sides", {"shapes": "[8, 2048] and [1, 2048]"}),
    "normalized_in_place": ("inputs.normalized_in_place", {}),
    "prints_dict": ("printed.accuracy_inverted", {}),
    "prints_json": ("printed.accuracy_inverted", {}),
    "prints_exponent": ("printed.multiplied", {"factor": VALUE}),
    "prints_other_names": ("printed.accuracy_inverted", {}, "printed.multiplied", {"factor": 1.3}),
    "prints_nothing_known": ("printed.none_of", {}),
    "accuracy_broadcast": ("printed.every_label", {}),
    "cut_at_half": ("printed.cut_at_half", {}, "head.one_logit", {}),
    "bce_inverted": ("loss.logit_of_photo_1", {}, "head.one_logit", {}),
    "ranking_margin": (
        "loss.margin",
        {"value": VALUE},
        "head.two_scores",
        {},
        "features.score",
        {},
    ),
    "ranking_margin_inverted": (
        "loss.inverted_or_swapped",
        {},
        "loss.margin",
        {},
        "head.two_scores",
        {},
        "features.score",
        {},
    ),
    "blurred": ("inputs.not_reproduced", {}),
    "autocast": ("features.autocast_declared", {}),
    "replicas": ("features.copies", {"copies": 2}),
    "replicas_apart": ("features.copies", {"copies": 2}, "update.copies_apart", {"copies": 2}),
    "drop_last": ("pairs.last_batch_dropped", {}),
    "header_line": ("pairs.part_in_epoch", {"missing": (1,)}),
    "same_order": ("pairs.same_order", {}),
    "in_order": ("pairs.unshuffled", {}),
    "never_reset": ("printed.never_reset", {"figure": "loss"}),
    "batches_never_reset": ("printed.batches_never_reset", {"figure": "loss"}),
    "left_early": ("pairs.epoch_left_early", {}),
    "rate_halved_late": ("update.learning_rates_change_later", {}),
    "schedule_in_batches": (),
    "zeroed_between": (
        "pairs.accumulated",
        {"batches": 2},
        "loss.factor",
        {"factor": 0.5},
        "gradients.zeroed_between_batches",
        {"batches": 2},
    ),
    "clip_scaled": (
        "gradients.clipped_while_scaled",
        {"given": VALUE, "factor": 65536.0},
    ),
    "one_series": ("pairs.one_series_in_batch", {}, "pairs.batch_size", {}),
    "neighbors": ("pairs.neighbors_in_batch", {}),
    "same_draws": ("inputs.same_draws", {}, "inputs.hflip", {}),
    "eval_train_mode": ("evaluation.batchnorm_training", {}),
    "eval_dropout": ("evaluation.dropout", {}, "head.dropout_features", {}),
    "eval_with_graph": ("evaluation.gradients_on", {}),
    "eval_on_train": ("evaluation.predictions", {"found": "predictions.training_pairs"}),
    "eval_part": ("evaluation.predictions", {"found": "predictions.part_of_val"}),
    "eval_inverted": ("evaluation.predictions", {"found": "predictions.own_labels_changed"}),
    "eval_cut_half": ("evaluation.cut_at_half", {}, "head.one_logit", {}),
    "eval_swapped": ("evaluation.photos_swapped", {}),
    "eval_crop": ("evaluation.prepared_otherwise", {}),
    "eval_mean_over_batches": ("evaluation.predictions", {"found": "predictions.arithmetic"}),
    "eval_metric_inverted": ("evaluation.predictions", {"found": "predictions.metric_inverted"}),
    "eval_copy": (
        "evaluation.earlier_parameters",
        {"taken": 0},
        "evaluation.other_network",
        {},
    ),
    "eval_average": (
        "evaluation.exponential_average",
        {"decay": VALUE},
        "evaluation.other_network",
        {},
    ),
    "eval_mean": ("evaluation.mean_of_parameters", {}, "evaluation.other_network", {}),
    "eval_stale_statistics": (
        "evaluation.earlier_statistics",
        {"taken": 0},
        "evaluation.other_network",
        {},
    ),
    "eval_earlier": ("evaluation.earlier_parameters", {"taken": 1}),
    "eval_moved": ("evaluation.other_parameters", {}),
    "eval_equal_copy": ("evaluation.copy", {}),
    "eval_state_overwritten": ("evaluation.state_overwritten", {}),
    "eval_not_the_best": (  # whose first accuracy is false as well
        "evaluation.not_the_best",
        {"written": (1,)},
        "evaluation.predictions",
        {"found": "predictions.reported_unexplained"},
    ),
    "eval_lowest_loss": (
        "evaluation.lowest_loss",
        {},
        "evaluation.predictions",
        {"found": "predictions.reported_unexplained"},
    ),
    "eval_split_by_pair": (
        "pairs.part_in_epoch",
        {},
        "evaluation.series_trained_on",
        {},
    ),
    "eval_alone": ("evaluation.photos_alone", {}),
    "eval_crops": ("evaluation.several_times", {"times": 3}),
    "clean_eval_before": (),
    "eval_percent": (),
    "clean_eval": (),
    "clean_eval_embedded": (),
    "clean_eval_both_orders": (),
    "small_photos": ("inputs.not_reproduced", {"outside": None, "moved": None}),
    "canvas_kept": (
        "inputs.not_reproduced",
        {"residue": Words("the border around each photo shows another photo")},
    ),
    "reshaped": ("inputs.not_reproduced", {"outside": None, "box": None}),
    "squared_gradients": (
        "gradients.changed",
        {"parameters": "the head", "function": "squared"},
    ),
    "rolled_back": (
        "update.changed_after",
        {"like": "again those before step 2"},
    ),
    "rounded_half": (
        "update.changed_after",
        {"like": "those rounded to float16"},
        "features.statistics_change",
        {"how": "rounded to float16"},
    ),
    "target_overwritten": (
        "loss.not_reproduced",
        {},
        "loss.other_targets",
        {"rules": "the prediction is right"},
    ),
    "logits_mixed": (
        "loss.not_reproduced",
        {},
        "loss.not_of_the_difference",
        {},
        "loss.logits_mixed",
        {"first": 1, "second": -2},
    ),
    "sign_accuracy": ("printed.sign_of_logit_2", {}),
    "epoch_mean_loss": (
        "loss.not_reproduced",
        {},
        "loss.cross_entropy_in_turn",
        {"value": "the mean over all pairs since the first recorded batch"},
    ),
    "chunked_difference": (
        "features.not_reproduced",
        {},
        "features.departs_behind",
        {},
        "head.two_merges",
        {},
        "head.zero_columns",
        {"first": 1537, "last": 2048},
    ),
    "equal_head_rows": ("start.head_rows_equal", {}),
    "kept_by_series": ("pairs.photo_of_the_series", {"side": 1}),
    "still_in_second": ("features.batchnorm_eval_of_side", {"side": 2}),
    "window_shuffle": ("pairs.follows_the_list", {}),
    "series_shuffled": ("pairs.neighbors_in_turn", {}),
    "thumbnail": ("inputs.thumbnail", {}),
    "argsort_ranks": (
        "labels.misread",
        {"rules": "the order of the photos by ranks (one argsort) is read as their ranks"},
    ),
    "labels_by_key": (
        "labels.of_another_row",
        {"whose": "the last line of the list with the same series and photo_1"},
    ),
    "sorted_lines": ("labels.of_another_row", {}),
    "turned_gradient": (
        "gradients.features_not_reproduced",
        {"photo_1": 1.0, "photo_2": -1.0},
    ),
    "gradients_by_shape": ("gradients.changed", {}),
    "l1_on_norms": ("gradients.changed", {"parameters": "1 of 7 tensors: 1.weight"}),
    "head_columns": ("start.head_columns_equal", {}),
    "head_opposite": ("start.head_rows_opposite", {"times": -1.0}),
    "softmax_plus": ("loss.softmax_plus", {"value": VALUE}),
    "added_margin": ("loss.added_to_label", {"value": VALUE}),
    "prints_smoothed": ("printed.smoothed", {"decay": VALUE, "begin": "0"}),
    "prints_flat": ("printed.argmax_of_all", {}),
    "prints_true_ones": ("printed.true_ones", {}),
    "prints_one_more": ("printed.one_batch_more", {}),
    "own_momentum": (
        "update.by_hand_otherwise",
        {},
        "update.linear",
        {},
    ),
    "shared_memory": (
        "update.not_reproduced",
        {},
        "update.shared_memory",
        {},
        "start.statistics_reset",
        {},
    ),
    "hooked_in_place": ("features.not_reproduced", {}, "features.departs_behind", {}),
    "stepped_by_hand": ("update.by_hand", {}),
    "stepped_by_hand_otherwise": ("update.by_hand_otherwise", {}, "update.linear", {}),
    "brighter_first": ("inputs.normalized_each", {"side": 1}),
    "normalized_batch": ("head.activation", {}),
    "stepped_twice": (
        "update.not_reproduced",
        {},
        "update.linear",
        {},
    ),
    "erased": ("inputs.not_reproduced", {}),
    "gamma": ("inputs.not_reproduced", {}),
    "padded_first": ("inputs.not_reproduced", {}),
    "posterized": ("inputs.not_reproduced", {}),
    "noised": ("inputs.not_reproduced", {}),
    "centered_batch": (
        "head.before_layer",
        {"relation": "with the mean of each column taken off"},
    ),
    "subtracted_twice": (
        "head.before_layer",
        {"relation": "1.0 x features_1 + -2.0 x features_2"},
    ),
    "damped_second": ("features.not_reproduced", {}, "features.departs_behind", {}),
    "sorted_features": (
        "features.not_reproduced",
        {"relation": "with the values of each row sorted, ascending"},
        "features.departs_behind",
        {},
    ),
    "renormed_head": ("update.changed_after", {}),
    "limited_weights": ("update.changed_after", {}),
    "limited_step": ("update.not_reproduced", {"own": ("Limited",)}),
    "restrided": ("features.not_reproduced", {}),
    "batches_grow": ("pairs.batches_grow", {"sizes": (8, 16, 24)}),
    "rectified_gradient": ("gradients.backbone_not_reproduced", {}),
    "unnormalized_backward": (
        "loss.not_reproduced",
        {"value": "the cross-entropy"},
        "loss.not_of_the_difference",
        {},
    ),
    "mixed_photos": (
        "inputs.not_reproduced",
        {"residue": Words("each input is a sum of two photos")},
    ),
    "stored_again": (
        "inputs.not_reproduced",
        {"residue": Words("the photo passed through a JPEG file")},
    ),
    "part_shown": (
        "inputs.not_reproduced",
        {"residue": Words("the photo is shown otherwise: columns")},
    ),
    "channel_as_opacity": ("inputs.not_reproduced", {"residue": Words("1 x red x blue")}),
    "wrapped_bytes": (
        "inputs.not_reproduced",
        {"residue": Words("each value of a photo becomes another")},
    ),
    "sides_swapped": ("inputs.not_reproduced", {}),
    "only_first_values": (
        "inputs.not_reproduced",
        {"residue": Words("only the first values of each photo are shown")},
    ),
    "swapped_views": ("pairs.one_photo_twice", {}),
    "corner_cell": (
        "features.not_reproduced",
        {},
        "features.departs_behind",
        {},
    ),
    "scores_in_columns": ("head.transposed", {}, "loss.other_logits", {}),
    "label_ahead": (
        "labels.of_another_row",
        {"whose": "the pair 1 places later, across batches"},
    ),
    "damped_buffers": ("update.state_changed", {"entry": "momentum_buffer"}),
    "smoothed_backward": ("loss.not_reproduced", {}, "loss.cross_entropy_in_turn", {}),
    "clip_tensors": (
        "gradients.changed",
        {"relation": Words("each tensor brought to norm")},
    ),
    "one_label": ("pairs.alike_in_batch", {"what": "the official label"}),
    "easy_first": ("pairs.follows_the_list", {"what": "the raters' agreement"}),
    "own_linear": ("gradients.head_not_reproduced", {"departs": "biases", "keeps": "weights"}),
    "spectral_norm": ("start.head_computed", {"by": "spectral_norm does"}),
    "frozen_norms": ("update.frozen", {"moving": ("1",)}),
}
REPORTS = list(EXPECTED)[list(EXPECTED).index("square_broadcast") :]
# Figures of an epoch need two epochs; two figures may be right by chance.
STEPS = dict.fromkeys(("epoch_mean_over_batches", "loss_sum_over_n", "loss_last_batch"), 10)
STEPS["metric_inverted"] = 4
STEPS |= dict.fromkeys(REPORTS, 3)
STEPS |= {"prints_smoothed": 6, "prints_flat": 6, "prints_true_ones": 6, "window_shuffle": 5}
STEPS["blurred"] = 1  # of no preparation: half a minute a step
STEPS |= {"one_label": 5, "easy_first": 5, "label_ahead": 5}
# Whole epochs, behind the full steps.
EPOCHS = dict.fromkeys(("drop_last", "header_line", "same_order", "in_order"), 2)
EPOCHS |= dict.fromkeys(("never_reset", "batches_never_reset", "left_early", "rate_halved_late"), 2)
SERIES = 120
SIDES = make_demo.SIDES  # of its photos; `make test` has it drawn in less time
# On a dataset with enough pairs.
EVALUATED = [name for name in EXPECTED if name.startswith(("eval_", "clean_eval"))]
LARGE = {*EVALUATED, "window_shuffle", "series_shuffled", "argsort_ranks", "labels_by_key"}
LARGE |= {"one_label", "easy_first", "label_ahead"}
EPOCHS |= dict.fromkeys(EVALUATED, 1)
EPOCHS |= dict.fromkeys(("eval_state_overwritten", "eval_not_the_best", "eval_lowest_loss"), 2)
EPOCHS |= dict.fromkeys(("eval_first_state", "eval_lowest_kept", "eval_never_reset"), 2)
EPOCHS |= dict.fromkeys(("window_shuffle", "series_shuffled", "one_label", "easy_first"), 1)
EPOCHS["schedule_in_batches"] = EPOCHS["one_series"] = EPOCHS["neighbors"] = 1
UNTRAINED = "start.untrained"  # so do all of the zoo
# What the style of a script is, apart from its plants: right, and not the reference.
STYLE = {"scores": {"features.score", "features.one_pass", "head.two_scores"}}
SCRIPTS = ("plain", "workers", "functional", "scores", "reports")
HARMLESS = ("bce", "log_softmax_twice", "loss_scaled_unscaled")
CLEAN = ("clean_reversed_batch", "clean_double_after", "clean_float32", "clean_channels_last",
         "clean_extra_forward", "clean_autograd_backward", "clean_group_per_tensor",
         "clean_second_first", "clean_rows_stacked", "clean_rows_joined", "clean_in_place",
         "clean_masked", "clean_closure", "clean_one_is_first",
         "clean_head_written_out")  # fmt: skip
# Bugs that no row of the tables is: the stage at which they must be found unexplained.
OUTSIDE = {2: "inputs", 3: "inputs", 5: "features", 6: "features",
           7: "loss", 8: "gradients", 9: "update", 10: "update",
           11: "loss", 12: "features", 13: "update", 14: "gradients", 15: "gradients",
           16: "loss"}  # fmt: skip
LINES = json.loads((HERE / "lines.json").read_text(encoding="utf-8"))  # {script: {plant: lines}}
# One of each kind, for the real backbone in both precisions.
REAL = """
    labels_inverted bgr hflip bicubic normalize_half half_input crop pad_topleft head_zero
    bn_eval one_pass bn_momentum bn_eps max_pool features_tanh concat abs_difference
    hidden_layer dropout_features no_head_bias label_invert_loss smoothing focal class_weights
    softmax_then_ce sum_loss detach_second no_zero_grad zero_grad_late backward_again clip_norm
    clip_value one_lr no_weight_decay decay_weights_only adam nesterov head_missing bn_frozen
    ema warmup reversed_difference bce clean_float32 clean_channels_last
"""
# Draws take one plant of a stage: several of one stage may be one (two losses, two optimizers).
DRAWN = ("bgr", "hflip", "bicubic", "normalize_half", "crop", "labels_inverted", "one_pass",
         "bn_eval", "features_tanh", "hidden_layer", "concat", "dropout_features", "no_head_bias",
         "label_invert_loss", "focal", "smoothing", "sum_loss", "backward_again", "clip_norm",
         "no_zero_grad", "one_lr", "adam", "nesterov", "no_weight_decay", "bn_frozen", "batch_size",
         "metric_inverted")  # fmt: skip


def tiny(weights):
    """The tiny backbone of the foreign trainers' --tiny."""
    layers = [nn.Conv2d(3, 16, 8, 8, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2048))


@functools.cache
def dataset(series=12):
    """A demo dataset of so many series, made once a process."""
    folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    sides = SIDES if series == SERIES else make_demo.SIDES
    with (
        contextlib.redirect_stdout(io.StringIO()),
        mock.patch.object(make_demo, "SIDES", sides),
    ):
        make_demo.main(["--out", f"{folder.name}/data", "--series", str(series), "--seed", "1"])
    return folder, Path(folder.name) / "data"


def examine(plants, script="plain", real=False, seed=0, steps=None, as_is=False, draw=0, epochs=0):
    """The findings on a foreign trainer with these plants, whose values are drawn."""
    steps = steps or max((STEPS.get(plant, 2) for plant in plants), default=2)
    epochs = max((EPOCHS.get(plant, epochs) for plant in plants), default=epochs)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        stack.callback(torch.hub.set_dir, torch.hub.get_dir())
        torch.hub.set_dir(folder)  # no weights are at hand
        options = {"real": real, "seed": seed, "as_is": as_is, "draw": draw, "epochs": epochs}
        trace = recorded(plants, Path(folder) / "mine.trace", script, steps, **options)
        if not real:
            stack.callback(setattr, train_resnet, "resnet50", train_resnet.resnet50)
            train_resnet.resnet50 = tiny
        return compare.explain(trace, data_of(plants), "train_resnet")[0]


def recorded(plants, path, script, steps=2, real=False, seed=0, as_is=False, draw=0, epochs=0):
    """The trace of a foreign trainer with these plants, written to a path; see examine."""
    with contextlib.ExitStack() as stack:
        words = [
            "--data",
            str(data_of(plants)),
            "--size",
            "64",
            "--seed",
            str(seed),
            "--epochs",
            "3",
        ]
        words += [] if real else ["--tiny"]
        words += ["--plant", *(word_of(plant, draw) for plant in plants)] if plants else []
        stack.callback(setattr, sys, "argv", sys.argv)
        sys.argv = [str(HERE / f"{script}.py"), *words]
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(contextlib.suppress(SystemExit))
        stack.enter_context(record.Recording(path, steps, as_is, epochs=epochs))
        runpy.run_path(sys.argv[0], run_name="__main__")
    return compare.read_trace(path)


def data_of(plants):
    """The dataset for a trainer with these plants."""
    return dataset(SERIES if set(plants) & LARGE else 12)[1]


def word_of(plant, draw):
    """A plant as a trainer takes it: NAME, or NAME=VALUE."""
    value = drawn(plant, draw)
    return plant if value is None else f"{plant}={value!r}"


def plants_of(script):
    """The plants of a script that must be named, and those that must not be."""
    known = runpy.run_path(str(HERE / f"{script}.py"), run_name="zoo")["PLANTS"]
    return [name for name in (*EXPECTED, *HARMLESS, *CLEAN) if name in known]


def wrong_with(plants, findings, script="plain", draw=0):
    """What is missing in the findings on these plants, and what should not be there."""
    free, problems = [f for f in findings if f.kind not in ("SKIPPED", "HARMLESS")], []
    other = [f for f in findings if f.kind in ("SKIPPED", "HARMLESS")]
    for plant in plants:
        expected = EXPECTED.get(plant, ())
        for name, values in zip(expected[::2], expected[1::2], strict=True):
            wanted = with_value(values, drawn(plant, draw))
            found = [f for f in (*free, *other) if is_expected(f, name, wanted)]
            problems += [] if found else [f"missing: {plant} ({name} {wanted})"]
            free = [f for f in free if all(f is not other for other in found)]
    allowed = {UNTRAINED, "evaluation.verdict"} | STYLE.get(script, set())
    allowed |= {"start.head_bias"} if "head_default" in plants else set()
    allowed |= {"gradients.add_up"} if {"head_missing", "head_made_late"} & set(plants) else set()
    return problems + [f"not planted: {f.kind} {f.id}" for f in free if f.id not in allowed]


def with_value(expected, value):
    """Expected values with the drawn one in its place."""
    if isinstance(expected, dict):
        return {key: with_value(inner, value) for key, inner in expected.items()}
    if isinstance(expected, tuple):
        return tuple(with_value(inner, value) for inner in expected)
    return value if expected is VALUE else expected


def is_expected(finding, name, values):
    """Whether a finding has this id and these values, numbers as they are shown."""
    return finding.id == name and all(
        value in (finding.values[key] or "") if isinstance(value, Words)
        else number_of(finding.values[key]) == number_of(value)
        for key, value in values.items()
    )  # fmt: skip


def number_of(value):
    """A value whose numbers have the digits that an answer shows."""
    if isinstance(value, tuple) and value and isinstance(value[0], tuple):
        return value[0][0].id  # of a finding that is told within another
    if isinstance(value, dict):
        return {key: number_of(inner) for key, inner in value.items()}
    if isinstance(value, tuple):
        return tuple(map(number_of, value))
    return float(f"{value:.4g}") if isinstance(value, float) else value


def wrong_lines(plants, findings, script):
    """What is wrong with the lines that the findings on these plants point at.

    LINES has the beginning of each, as the rule of docs/trainer.md has it; empty where none can be
    known.
    """
    problems = []
    for plant in plants:
        names, lines = EXPECTED.get(plant, ())[::2], LINES[script].get(plant, [])
        for name, text in zip(names, lines, strict=True) if lines else ():
            found = next((f for f in findings if f.id == name), None)
            own = found.where[0].text if found and found.where else ""
            if not own.startswith(text) or bool(own) != bool(text):
                problems.append(f"line of {plant}: {own!r}, not {text!r}")
    return problems


def draws(count, seed=0):
    """Seeded draws of two or three plants of different stages."""
    rng = random.Random(seed)
    while count:
        plants = rng.sample(DRAWN, rng.choice((2, 3)))
        stages = {name.split(".")[0] for plant in plants for name in EXPECTED[plant][::2]}
        cancel = {"labels_inverted", "label_invert_loss"} <= set(plants)  # the reference again
        if len(stages) == len(plants) and not cancel:
            count -= 1
            yield plants


def some(plants, count):
    """So many plants of each stage, those that come first and need no large dataset."""
    stages = {}
    for plant in (plant for plant in plants if plant not in LARGE):
        first = next(iter(EXPECTED[plant]), "nothing")
        stages.setdefault(first.split(".")[0], []).append(plant)
    return [plant for own in stages.values() for plant in own[:count]]


def rows_of(script):
    """(plants, seed) of a script: every plant alone, the clean one over 20 seeds, and draws."""
    rows = [([name], 0) for name in plants_of(script)] + [([], seed) for seed in range(20)]
    return rows + [(plants, 0) for plants in draws(100)] * (script == "plain")


def main(argv=None):
    """Prints the kill matrix and how many rows are wrong; ends with 1 where some are."""
    argv = sys.argv[1:] if argv is None else argv
    real, as_is, scripts = "--real" in argv, "--as-is" in argv, SCRIPTS
    if "--script" in argv:
        scripts = [argv[argv.index("--script") + 1]]
    draw = int(argv[argv.index("--draw") + 1]) if "--draw" in argv else 0
    known = (*EXPECTED, *HARMLESS, *CLEAN)
    words = [word for word in argv if word[:2] != "--" and word not in (*SCRIPTS, str(draw))]
    names = [word for word in words if word in known]
    if set(words) - {*known, "real"}:
        sys.exit(f"no such plants: {sorted(set(words) - set(known))}")
    names += REAL.split() if "real" in argv else []
    if names and "--script" not in argv:
        scripts = SCRIPTS[:1]
    rows = [(script, *row) for script in scripts
            for row in ([([name], 0) for name in names] or rows_of(script))]  # fmt: skip
    bad = 0
    for script, plants, seed in rows:
        findings = examine(plants, script, real, seed, as_is=as_is, draw=draw)
        problems = wrong_with(plants, findings, script, draw)
        if len(plants) == 1 and not real:
            problems += wrong_lines(plants, findings, script)
        bad += bool(problems)
        said = "; ".join(f"{f.id}: {text_of(f)}" for f in findings if f.kind != "SKIPPED")
        planted = "+".join(word_of(plant, draw) for plant in plants)
        row = f"{script}: {planted or 'clean'} | {said or 'EQUAL'}"
        print(f"{row} | {'; '.join(problems) or 'ok'}", flush=True)
    for number, stage in OUTSIDE.items() if not names and "plain" in scripts else ():
        kinds = {(f.kind, f.stage) for f in examine([f"outside_{number}"], real=real)}
        right = ("UNEXPLAINED", stage) in kinds and not any(kind == "CAUSE" for kind, _ in kinds)
        bad += not right
        print(f"plain: outside_{number} | unexplained at {stage} | {'ok' if right else kinds}")
    print(f"{len(rows)} rows, {bad} wrong")
    sys.exit(int(bad > 0))


if __name__ == "__main__":
    main()
