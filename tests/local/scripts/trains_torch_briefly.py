"""Takes a few steps with PyTorch and leaves a file as its model; says how far its ranks' weights are apart."""

import json
import os
import sys
from pathlib import Path

import horovod.torch as hvd
import torch

hvd.init()
torch.manual_seed(hvd.rank())
model = torch.nn.Linear(4, 1)
optimizer = hvd.DistributedOptimizer(torch.optim.SGD(model.parameters(), 0.01))
hvd.broadcast_parameters(model.state_dict(), root_rank=0)
data = torch.randn(64, 4)
for batch in data.split(8) * 2:
    optimizer.zero_grad()
    torch.nn.functional.mse_loss(model(batch), batch.sum(dim=1, keepdim=True)).backward()
    optimizer.step()
print(f"rank {hvd.rank()} of {hvd.size()} has trained")
weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
everyones = hvd.allgather(weights[None])
if hvd.rank() == 0:
    difference = float((everyones - everyones[0]).abs().max())
    facts = {"difference": difference, "ranks": hvd.size(), "arguments": sys.argv[1:]}
    (Path(os.environ["SM_MODEL_DIR"]) / "facts.json").write_text(json.dumps(facts))
