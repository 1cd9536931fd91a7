"""
Trains in an elastic ring with `hvd.elastic.TorchState`, as slowly as a test asks for; ranks write down what they do.

One line of JSON for each event: a step that was taken, and each beginning after a reset.
"""

import argparse
import json
import os
import signal
import time
from pathlib import Path

import horovod.torch as hvd
import torch

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=60)
parser.add_argument("--until-size", type=int, default=1, help="goes on until the ring has so many ranks")
parser.add_argument("--step-seconds", type=float, default=0.05)
parser.add_argument("--commit-every", type=int, default=5)
parser.add_argument("--die-at-step", type=int, default=-1, help="one rank that is not rank 0 kills itself, once")
args = parser.parse_args()

hvd.init()
torch.set_num_threads(1)
root = Path(os.environ["SM_MODEL_DIR"]).parent
journal = (root / f"journal-{os.getpid()}.jsonl").open("a", buffering=1)


def note(event: str, **facts: object) -> None:
    facts |= {"event": event, "at": time.time(), "rank": hvd.rank(), "size": hvd.size(), "step": state.step}
    journal.write(json.dumps(facts) + "\n")


# Each process begins with other weights.
inputs = torch.randn(256, 4, generator=torch.Generator().manual_seed(7))
targets = inputs.sum(dim=1, keepdim=True)
torch.manual_seed(os.getpid())
model = torch.nn.Linear(4, 1)
optimizer = hvd.DistributedOptimizer(
    torch.optim.SGD(model.parameters(), 0.05), named_parameters=model.named_parameters()
)
state = hvd.elastic.TorchState(model=model, optimizer=optimizer, step=0)


@hvd.elastic.run
def train(state: hvd.elastic.TorchState) -> None:
    note("begin")
    while state.step < args.steps or hvd.size() < args.until_size:
        mine = torch.arange(hvd.rank(), len(inputs), hvd.size())[:64]
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(inputs[mine]), targets[mine]).backward()
        optimizer.step()
        state.step += 1
        note("step")
        dead = root / "died"
        if state.step == args.die_at_step and hvd.rank() and not dead.exists():
            dead.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(args.step_seconds)
        if state.step % args.commit_every == 0:
            state.commit()


train(state)
note("end")
weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
everyones = hvd.allgather(weights[None])
if hvd.rank() == 0:
    facts = {
        "steps": state.step,
        "size": hvd.size(),
        "loss": float(torch.nn.functional.mse_loss(model(inputs), targets)),
        "difference": float((everyones - everyones[0]).abs().max()),
    }
    (Path(os.environ["SM_MODEL_DIR"]) / "facts.json").write_text(json.dumps(facts))
