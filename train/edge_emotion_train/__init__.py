"""Training: corpora, synthetic speech, augmentation, reasoning text, the model, its stages and their evaluation."""
