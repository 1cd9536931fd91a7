"""
Trains on real digits with `horovod_node.torch_training`, as slowly as a test asks for; ranks write down what they do.

One line of JSON for each step, in the folder above the model's: it outlives the process. A file `stands-still-at` there
holds the step after which this node's rank goes no further.
"""

import argparse
import json
import math
import os
import time
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from horovod_node import torch_training as training
from horovod_node.torch_training import ring

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=4)
parser.add_argument("--step-seconds", type=float, default=0.05)
parser.add_argument("--commit-every", type=int)
parser.add_argument("--checkpoint-every", type=int)
parser.add_argument("--die-at-step", type=int, default=-1)
args = parser.parse_args()

training.start()
torch.set_num_threads(1)
root = Path(os.environ["SM_MODEL_DIR"]).parent
journal = (root / f"journal-{os.getpid()}.jsonl").open("a", buffering=1)
mark = root / "stands-still-at"
stands_still_at = int(mark.read_text()) if mark.exists() else math.inf


class Counter:
    """Part of the training's state: steps, and epochs that have ended."""

    step = epoch = 0

    def state_dict(self) -> dict[str, int]:
        return {"step": self.step, "epoch": self.epoch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.step, self.epoch = state["step"], state["epoch"]


counter = Counter()


def note(event: str, **facts: object) -> None:
    facts |= {"event": event, "at": time.time(), "rank": training.rank(), "size": training.size()}
    journal.write(json.dumps(facts | {"epoch": counter.epoch, "step": counter.step}) + "\n")


with np.load(Path(os.environ["SM_CHANNEL_TRAIN"]) / "digits.npz") as digits:
    images, labels = torch.from_numpy(digits["images"]).flatten(1), torch.from_numpy(digits["labels"]).long()
is_test = torch.arange(len(labels)) % 5 == 0

# Each process begins with other weights.
torch.manual_seed(os.getpid())
model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.BatchNorm1d(32), torch.nn.Linear(32, 10))
optimizer = training.distributed(torch.optim.Adam(model.parameters(), 0.002), scale_learning_rate="sqrt")
schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.999)
loader = DataLoader(TensorDataset(images[~is_test], labels[~is_test]), batch_size=16, shuffle=True)


def step(batch: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
    optimizer.zero_grad()
    loss = torch.nn.functional.cross_entropy(model(batch), answers)
    loss.backward()
    optimizer.step()
    schedule.step()
    counter.step += 1
    note("step")
    if counter.step == args.die_at_step:
        os.kill(os.getpid(), 9)
    while counter.step >= stands_still_at:
        time.sleep(60)
    time.sleep(args.step_seconds)
    return loss


def on_epoch_end(epoch: int, loss: float | None) -> None:
    note("epoch", loss=loss, number=epoch)
    counter.epoch += 1


training.fit(
    step,
    loader,
    model=model,
    optimizer=optimizer,
    state={"schedule": schedule, "counter": counter},
    epochs=args.epochs,
    on_epoch_end=on_epoch_end,
    commit_every=args.commit_every,
    checkpoint_every=args.checkpoint_every,
)
weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()]).double().numpy()
everyones = ring.gather(weights, name="proof")
training.save(model)
if training.rank() == 0:
    model.eval()
    accuracy = (model(images[is_test]).argmax(dim=1) == labels[is_test]).float().mean()
    facts = {
        "size": training.size(),
        "difference": float(np.abs(everyones - everyones[0]).max()),
        "steps": counter.step,
        "accuracy": float(accuracy),
        "learning_rate": optimizer.param_groups[0]["lr"],
        "weights": weights.tolist(),
    }
    (Path(os.environ["SM_MODEL_DIR"]) / "facts.json").write_text(json.dumps(facts))
