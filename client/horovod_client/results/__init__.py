"""What a run leaves: receipt, model, logs, TensorBoard files."""
