"""
Trains one rank's data under `torch_training.distributed`, and all ranks' data under the optimizer alone; compares.

With equally large shares the mean of all examples' losses has the mean of the ranks' gradients: the weights must be the
same, but for rounding.
"""

import json

import torch

from horovod_node import torch_training as training
from horovod_node.torch_training import ring

training.start()
torch.set_num_threads(1)
STEPS, RATE = 8, 0.01


def model_of(seed):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))


def loss_of(model, step, ranks):
    generator = torch.Generator().manual_seed(step)
    examples = torch.randn(2, 8, 3, generator=generator)[ranks].reshape(-1, 3)
    return torch.nn.functional.mse_loss(model(examples), examples.sum(dim=1, keepdim=True))


def scheduled(optimizer):
    return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)


def train(model, optimizer, ranks, *, schedule=None, clip=False, accumulate=1):
    schedule = schedule(optimizer) if schedule else None
    for step in range(STEPS):
        optimizer.zero_grad()
        for part in range(accumulate):
            (loss_of(model, step * accumulate + part, ranks) / accumulate).backward()
        if clip and hasattr(optimizer, "synchronize"):
            optimizer.synchronize()
        if clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        if clip and hasattr(optimizer, "synchronize"):
            with optimizer.skip_synchronize():
                optimizer.step()
        else:
            optimizer.step()
        if schedule:
            schedule.step()
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()]).double()


result = {}
for name, kind, scale, factor, options in (
    ("sgd", torch.optim.SGD, "linear", 2.0, {}),
    ("adam", torch.optim.Adam, "sqrt", 2.0**0.5, {}),
    ("unscaled", torch.optim.AdamW, "none", 1.0, {}),
    ("function", torch.optim.SGD, lambda size: size + 1, 3.0, {}),
    ("schedule", torch.optim.Adam, "linear", 2.0, {"schedule": scheduled}),
    ("clipped", torch.optim.SGD, "linear", 2.0, {"clip": True}),
    ("accumulated", torch.optim.SGD, "linear", 2.0, {"accumulate": 2}),
):
    model, reference = model_of(7), model_of(7)
    optimizer = training.distributed(
        kind(model.parameters(), lr=RATE),
        scale_learning_rate=scale,
        backward_passes_per_step=options.get("accumulate", 1),
    )
    before = torch.cat([parameter.detach().flatten() for parameter in model.parameters()]).double()
    weights = train(model, optimizer, [training.rank()], **options)
    expected = train(reference, kind(reference.parameters(), lr=RATE * factor), [0, 1], **options)
    everyones = ring.gather(weights.numpy(), name=name)
    result[name] = {
        "apart": float(abs(everyones - everyones[0]).max()),
        "from_expected": float((weights - expected).abs().max()),
        "moved": float((weights - before).abs().max()),
        "rate": optimizer.param_groups[0]["lr"],
    }
print("result", training.rank(), json.dumps(result))
