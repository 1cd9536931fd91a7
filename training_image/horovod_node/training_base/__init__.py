"""What the training helpers for Keras and for PyTorch share; it imports neither framework."""
