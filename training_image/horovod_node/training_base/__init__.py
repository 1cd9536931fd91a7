"""Code that the training helpers for Keras and PyTorch share; it imports neither framework."""
