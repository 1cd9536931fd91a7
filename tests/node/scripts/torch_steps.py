"""
Trains in every way that PyTorch knows, and prints what the step counter saw after each.

Arguments: the file for the counter, and the one way of training, if it is to be one. Without a file there are no hooks.
"""

import contextlib
import json
import sys
from pathlib import Path

from horovod_node.rank_process import preflight
from horovod_node.rank_process.import_hooks import AfterImport
from horovod_node.rank_process.step_counter import StepCounter

counted, only = sys.argv[1:2], sys.argv[2:3]
counter = StepCounter(Path(*counted))
if counted:
    AfterImport({**counter.hooks(), **preflight.hooks()}).install()
untouched = not sys.modules.keys() & {"torch", "tensorflow", "keras"}

import horovod.torch as hvd  # noqa: E402 - the hooks come before the imports
import torch  # noqa: E402

hvd.init()
torch.set_num_threads(1)
x, y = torch.ones(4, 2), torch.ones(4, 1)


def plain(model, optimizer):
    for _ in range(3):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()


def distributed(model, optimizer):
    optimizer = hvd.DistributedOptimizer(optimizer, named_parameters=model.named_parameters())
    hvd.broadcast_optimizer_state(optimizer, root_rank=0)
    plain(model, optimizer)


def synchronized(model, optimizer):
    optimizer = hvd.DistributedOptimizer(optimizer, named_parameters=model.named_parameters())
    for _ in range(3):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(x), y).backward()
        optimizer.synchronize()
        with optimizer.skip_synchronize():
            optimizer.step()


def closure(model, optimizer):
    def loss():
        optimizer.zero_grad()
        error = torch.nn.functional.mse_loss(model(x), y)
        error.backward()
        return error

    for _ in range(3):
        optimizer.step(loss)


def failing(model, optimizer):
    def fail():
        raise ArithmeticError

    plain(model, optimizer)
    with contextlib.suppress(ArithmeticError):
        optimizer.step(fail)


graphs = []


def compiled(model, optimizer):
    def keep(graph, _inputs):
        graphs.append(str(graph.graph))
        return graph.forward

    step = torch.compile(optimizer.step, backend=keep)
    for _ in range(3):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(x), y).backward()
        step()


seen = {"untouched": untouched}
for train, kind in (
    (plain, torch.optim.SGD),
    (distributed, torch.optim.Adam),
    (synchronized, torch.optim.AdamW),
    (closure, torch.optim.LBFGS),
    (failing, torch.optim.RMSprop),
    (compiled, torch.optim.Adam),
):
    if only and only != [train.__name__]:
        continue
    before = counter.relay() if counted else None
    model = torch.nn.Linear(2, 1)
    optimizer = kind(model.parameters(), 0.1)
    train(model, optimizer)
    if not counted:
        continue
    after = counter.relay()
    still = counter.relay() == after
    seen[train.__name__] = {"step": after.step, "advanced": after.advances > before.advances, "still": still}
print(json.dumps({**seen, "graphs": graphs}))
