"""The trained reward model: audio and a reasoning in, four scores of 1 to 5 out. A `Judge` for the reinforcement."""
