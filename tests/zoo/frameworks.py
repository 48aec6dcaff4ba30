"""The fifth script's network and pairs in the loops of three frameworks, each with its evaluation.

python frameworks.py --data DATA [--tiny] [--size 64] [--seed 0] --plant FRAMEWORK [NAME ...]
"""

import argparse
import pathlib
import tempfile

import reports
import torch
from plants import Plants
from torch.nn import functional as F
from torch.utils.data import DataLoader

FRAMEWORKS = ("lightning", "transformers", "ignite")
PLANTS = [*FRAMEWORKS, "eval_inverted", "eval_swapped", "eval_part"]


class Ranker(reports.Net):
    """The network, whose photos are swapped where an evaluation does so by mistake."""

    def forward(self, first, second):
        swapped = "eval_swapped" in self.plants and not self.training
        return super().forward(second, first) if swapped else super().forward(first, second)


def loaders(args, plants):
    """The loaders of the training and the validation pairs."""
    train, val = (reports.Pairs(args.data, args.size, plants, split) for split in ("train", "val"))
    shuffled = DataLoader(train, 8, shuffle=True)
    return shuffled, DataLoader(val, 16, drop_last="eval_part" in plants)


def lightning(args, plants):
    """A LightningModule with a validation_step."""
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net, self.right = Ranker(args.tiny, plants), []

        def training_step(self, batch, place):
            first, second, label = batch
            return F.cross_entropy(self.net(first, second), label)

        def validation_step(self, batch, place):
            first, second, label = batch
            self.right += (self.net(first, second).argmax(1) == label).tolist()

        def on_validation_epoch_end(self):
            print(f"epoch {self.current_epoch} val_acc={sum(self.right) / len(self.right):.4f}")
            self.right.clear()

        def configure_optimizers(self):
            return reports.optimizer_of(self.net)

    trainer = lightning.Trainer(
        max_epochs=args.epochs, accelerator="cpu", logger=False, num_sanity_val_steps=0,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Module(), *loaders(args, plants))


def transformers(args, plants):
    """A Trainer with compute_metrics."""
    import transformers

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = Ranker(args.tiny, plants)

        def forward(self, first, second, labels):
            logits = self.net(first, second)
            return {"loss": F.cross_entropy(logits, labels), "logits": logits}

    def collate(rows):
        first, second, labels = torch.utils.data.default_collate(rows)
        return {"first": first, "second": second, "labels": labels}

    def metrics(told):
        return {"accuracy": float((told.predictions.argmax(1) == told.label_ids).mean())}

    class Shown(transformers.TrainerCallback):
        def on_evaluate(self, args, state, control, metrics, **others):
            print(f"epoch {state.epoch} val_acc={metrics['eval_accuracy']:.4f}")

    model, (train, val) = Model(), loaders(args, plants)
    whole = len(val) * 16 if "eval_part" in plants else len(val.dataset)
    evaluated = torch.utils.data.Subset(val.dataset, range(whole))
    optimizer = reports.optimizer_of(model.net)
    steady = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    with tempfile.TemporaryDirectory() as folder:
        settings = transformers.TrainingArguments(
            output_dir=folder, per_device_train_batch_size=8, per_device_eval_batch_size=16,
            num_train_epochs=args.epochs, eval_strategy="epoch", save_strategy="no", use_cpu=True,
            max_grad_norm=0.0, report_to=[], disable_tqdm=True, remove_unused_columns=False,
            dataloader_drop_last=False,
        )  # fmt: skip
        transformers.Trainer(
            model, settings, collate, train.dataset, evaluated, compute_metrics=metrics,
            optimizers=(optimizer, steady), callbacks=[Shown()],
        ).train()  # fmt: skip


def ignite(args, plants):
    """An engine, and an evaluator with Accuracy."""
    from ignite.engine import Engine, Events
    from ignite.metrics import Accuracy

    net, (train, val) = Ranker(args.tiny, plants), loaders(args, plants)
    optimizer = reports.optimizer_of(net)

    def step(engine, batch):
        net.train()
        first, second, label = batch
        loss = F.cross_entropy(net(first, second), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    def evaluate(engine, batch):
        net.eval()
        first, second, label = batch
        with torch.no_grad():
            return net(first, second), label

    trainer, evaluator = Engine(step), Engine(evaluate)
    Accuracy().attach(evaluator, "accuracy")

    @trainer.on(Events.EPOCH_COMPLETED)
    def show(engine):
        accuracy = evaluator.run(val).metrics["accuracy"]
        print(f"epoch {engine.state.epoch} val_acc={accuracy:.4f}")

    trainer.run(train, max_epochs=args.epochs)


def main():
    """Trains on the official pairs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--plant", nargs="+", default=[])
    args = parser.parse_args()
    plants = Plants(args.plant, PLANTS)
    torch.manual_seed(args.seed)
    globals()[next(name for name in FRAMEWORKS if name in plants)](args, plants)


if __name__ == "__main__":
    main()
