"""Learns handwritten digits."""

import argparse
import json
import os
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from horovod_node import torch_training as training

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--batch-size", type=int, default=32)
parser.add_argument("--learning-rate", type=float, default=0.001)
args = parser.parse_args()

device = training.start()
# Every fifth image is for the test.
with np.load(Path(os.environ["SM_CHANNEL_TRAIN"]) / "digits.npz") as digits:
    images, labels = torch.from_numpy(digits["images"])[:, None], torch.from_numpy(digits["labels"])
is_test = torch.arange(len(labels)) % 5 == 0
loader = DataLoader(TensorDataset(images[~is_test], labels[~is_test]), batch_size=args.batch_size, shuffle=True)

model = torch.nn.Sequential(
    torch.nn.Conv2d(1, 32, 3),
    torch.nn.ReLU(),
    torch.nn.Conv2d(32, 64, 3),
    torch.nn.ReLU(),
    torch.nn.Flatten(),
    torch.nn.Linear(64 * 4 * 4, 128),
    torch.nn.ReLU(),
    torch.nn.Linear(128, 10),
).to(device)
optimizer = training.distributed(torch.optim.Adam(model.parameters(), args.learning_rate))


def step(batch, answers):
    optimizer.zero_grad()
    loss = torch.nn.functional.cross_entropy(model(batch.to(device)), answers.to(device))
    loss.backward()
    optimizer.step()
    return loss


training.fit(step, loader, model=model, optimizer=optimizer, epochs=args.epochs)

with torch.no_grad():
    found = model(images[is_test].to(device)).argmax(dim=1).cpu()
accuracy = (found == labels[is_test]).float().mean().item()
print(f"test accuracy {accuracy:.4f}")
folder = Path(os.environ["SM_MODEL_DIR"])
(folder / "metrics.json").write_text(json.dumps({"accuracy": accuracy}))
training.save(model)
