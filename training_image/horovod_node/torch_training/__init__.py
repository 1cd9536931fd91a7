"""
The helpers for PyTorch scripts, which train on a ring whose nodes may join and leave. They work on one machine, too.

    from horovod_node import torch_training as training

    device = training.start()
    optimizer = training.distributed(torch.optim.Adam(model.parameters(), 1e-3))
    training.fit(step, loader, model=model, optimizer=optimizer, epochs=10)
    training.save(model)

`step` is the body of the script's loop: it takes a batch, and ends with `optimizer.step()`. Scripts may also use
`horovod.torch` without these helpers. The helpers for Keras are in `horovod_node.training`.
"""

from horovod_node.torch_training.fit import evaluating, fit
from horovod_node.torch_training.optimizer import distributed
from horovod_node.torch_training.ring import rank, size, start
from horovod_node.torch_training.save import save

__all__ = ["distributed", "evaluating", "fit", "rank", "save", "size", "start"]
