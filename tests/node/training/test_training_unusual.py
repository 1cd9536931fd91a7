"""The training helper with GANs, several models, adapted layers, and loops of one's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.node.training_proofs import prove_refusals, prove_resume_of_several, prove_unusual_trainings

pytestmark = pytest.mark.ring


@pytest.mark.slow
def test_unusual_trainings_average() -> None:
    """Ranks that begin apart end with equal weights, whatever trains them, and whatever their layers had learned."""
    prove_unusual_trainings()


def test_fails_with_one_sentence_when_ranks_would_train_alone() -> None:
    """It names what to change."""
    prove_refusals()


@pytest.mark.slow
def test_killed_training_of_several_models_goes_on(tmp_path: Path) -> None:
    """A model whose training was over before is not found untrained, and both optimizers of a GAN come back."""
    prove_resume_of_several(tmp_path)
