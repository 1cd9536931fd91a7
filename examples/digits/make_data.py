"""Writes scikit-learn's handwritten digits as the data channel of the examples: `make_data.py OUT_DIR`."""

import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits


def main() -> None:
    """Write OUT_DIR/digits.npz: 1,797 images of 8 x 8 pixels, and the digit that each image shows."""
    if len(sys.argv) != 2:
        sys.exit("usage: make_data.py OUT_DIR")
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    digits = load_digits()
    images = (digits.images / 16).astype("float32")
    np.savez_compressed(folder / "digits.npz", images=images, labels=digits.target.astype("int64"))


if __name__ == "__main__":
    main()
