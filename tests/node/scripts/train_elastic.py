"""
Trains in an elastic ring with Horovod's own means, as slowly as a test asks for; every rank writes down what it does.

One line of JSON for each event: a step that was taken, and each beginning after a reset.
"""

import argparse
import json
import os
import signal
import time
from pathlib import Path

import horovod.tensorflow.keras as hvd
import numpy as np
import tensorflow as tf

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=60)
parser.add_argument("--until-size", type=int, default=1, help="goes on until the ring has so many ranks")
parser.add_argument("--step-seconds", type=float, default=0.05)
parser.add_argument("--commit-every", type=int, default=5)
parser.add_argument("--die-at-step", type=int, default=-1, help="one rank that is not rank 0 kills itself, once")
args = parser.parse_args()

hvd.init()
root = Path(os.environ["SM_MODEL_DIR"]).parent
journal = (root / f"journal-{os.getpid()}.jsonl").open("a", buffering=1)


def note(event: str, **facts: object) -> None:
    facts |= {"event": event, "at": time.time(), "rank": hvd.rank(), "size": hvd.size(), "step": state.step}
    journal.write(json.dumps(facts) + "\n")


tf.keras.utils.set_random_seed(1)
inputs = np.random.default_rng(7).normal(size=(256, 4)).astype("float32")
targets = inputs.sum(axis=1, keepdims=True)
model = tf.keras.Sequential([tf.keras.layers.Input((4,)), tf.keras.layers.Dense(1)])
optimizer = hvd.DistributedOptimizer(tf.keras.optimizers.SGD(0.05))
model.compile(optimizer, "mse")
optimizer.build(model.trainable_variables)
state = hvd.elastic.KerasState(model, step=0)


class Journal(tf.keras.callbacks.Callback):
    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        state.step += 1
        note("step")
        dead = root / "died"
        if state.step == args.die_at_step and hvd.rank() and not dead.exists():
            dead.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(args.step_seconds)


@hvd.elastic.run
def train(state: hvd.elastic.KerasState) -> None:
    note("begin")
    commit = hvd.elastic.CommitStateCallback(state, batches_per_commit=args.commit_every)
    while (left := args.steps - state.step) > 0 or hvd.size() < args.until_size:
        model.fit(
            inputs,
            targets,
            batch_size=32,
            steps_per_epoch=min(8, left) if left > 0 else 8,
            verbose=0,
            callbacks=[Journal(), commit],
        )


train(state)
note("end")
if hvd.rank() == 0:
    facts = {"steps": state.step, "size": hvd.size(), "loss": float(model.evaluate(inputs, targets, verbose=0))}
    (Path(os.environ["SM_MODEL_DIR"]) / "facts.json").write_text(json.dumps(facts))
