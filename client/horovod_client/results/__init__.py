"""Results of a run: receipt, model, logs, TensorBoard files."""
