"""Divides an epoch's examples among ranks that are only imagined, and prints who gets what."""

import json
import tempfile
from pathlib import Path

import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, WeightedRandomSampler

from horovod_node import torch_training as training
from horovod_node.rank_process import step_counter
from horovod_node.torch_training import ring
from horovod_node.torch_training.work import divide
from horovod_node.training_base.position import Position

data = TensorDataset(torch.arange(23))


def taken(work, *, size, position, steps=None):
    """Give what each rank of a ring takes, and how many units are done then."""
    ring.size = lambda: size
    everyones = []
    for rank in range(size):
        ring.rank = lambda rank=rank: rank
        leg = work.leg(position)
        batches = [batch[0].tolist() for batch in leg.batches]
        assert len(batches) == leg.steps
        everyones.append(batches[:steps])
    return everyones, leg.start + len(everyones[0]) * leg.unit


def refusal(data, **arguments):
    try:
        divide(data, **{"steps_per_epoch": None, **arguments}).leg(Position())
    except (TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(4))


shuffled = divide(DataLoader(data, batch_size=2, shuffle=True), steps_per_epoch=None)
first, done = taken(shuffled, size=3, position=Position(order=5), steps=2)
rest, _ = taken(shuffled, size=2, position=Position(order=5, done=done))
again, _ = taken(shuffled, size=3, position=Position(order=5), steps=2)
other, _ = taken(shuffled, size=3, position=Position(order=5, epoch=1), steps=2)
in_order = divide(DataLoader(data, batch_size=4, drop_last=True), steps_per_epoch=None)
own = divide(lambda rank, _size: [[torch.tensor([10 * rank + n])] for n in range(4)], steps_per_epoch=6)
counter = step_counter.StepCounter(Path(tempfile.mkdtemp()) / "progress")
step_counter.install(counter)
evaluated = [batch[0].tolist() for batch in training.evaluating(DataLoader(data, batch_size=10))]
print(
    json.dumps(
        {
            "first": first,
            "rest": rest,
            "same": first == again,
            "other": first != other,
            "in order": taken(in_order, size=2, position=Position())[0],
            "own": taken(own, size=2, position=Position())[0],
            "own rest": taken(own, size=2, position=Position(done=4))[0],
            "evaluated": [sum(map(len, evaluated)), counter.relay().step, counter.relay().advances],
            "refused": [
                refusal(DataLoader(Stream())),
                refusal(DataLoader(data, sampler=WeightedRandomSampler([1.0] * 23, 23))),
                refusal([1, 2]),
                refusal(lambda _rank, _size: iter([1])),
            ],
        }
    )
)
