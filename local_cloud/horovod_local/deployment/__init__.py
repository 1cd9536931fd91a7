"""From a cloud assembly to a deployed stack."""
