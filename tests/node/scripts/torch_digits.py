"""
Trains on real digits with plain `horovod.torch`, and fails in the way that a test asks for.

Leaves proof of equal weights beside the model. `--alone` leaves Horovod's optimizer out.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

import horovod.torch as hvd
import numpy as np
import torch

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=30)
parser.add_argument("--rank", type=int, default=-1, help="the rank that misbehaves")
parser.add_argument("--at-step", type=int, default=5)
parser.add_argument("--do", choices=["nothing", "raise", "sleep", "leave"], default="nothing")
parser.add_argument("--alone", type=bool, default=False)
args = parser.parse_args()

hvd.init()
torch.set_num_threads(1)
with np.load(Path(os.environ["SM_CHANNEL_TRAIN"]) / "digits.npz") as digits:
    images = torch.from_numpy(digits["images"][hvd.rank() :: hvd.size()]).flatten(1)
    labels = torch.from_numpy(digits["labels"][hvd.rank() :: hvd.size()]).long()

# Each rank begins with other weights and sees other images: only the ring can make them equal.
torch.manual_seed(1 + hvd.rank())
model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
optimizer = torch.optim.Adam(model.parameters(), 0.001 * hvd.size())
if not args.alone:
    optimizer = hvd.DistributedOptimizer(optimizer, named_parameters=model.named_parameters())
hvd.broadcast_parameters(model.state_dict(), root_rank=0)
hvd.broadcast_optimizer_state(optimizer, root_rank=0)


def wait_for_ever() -> None:
    while True:
        time.sleep(60)


def misbehave() -> None:
    print(f"rank {hvd.rank()} does '{args.do}'", flush=True)
    if args.do == "raise":
        raise ValueError("the digits are upside down")
    if args.do == "sleep":
        wait_for_ever()
    if args.do == "leave":
        sys.exit(0)


for step in range(args.steps):
    batch = torch.arange(step * 32, step * 32 + 32) % len(images)
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
    optimizer.step()
    if hvd.rank() == args.rank and step + 1 == args.at_step:
        misbehave()

weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
everyones = hvd.allgather(weights[None])
if hvd.rank() == 0:
    folder = Path(os.environ["SM_MODEL_DIR"])
    torch.save(model.state_dict(), folder / "model.pt")
    proof = {
        "ranks": len(everyones),
        "difference": float((everyones - everyones[0]).abs().max()),
        "norm": float(weights.norm()),
        "steps": args.steps,
    }
    (folder / "facts.json").write_text(json.dumps(proof))
