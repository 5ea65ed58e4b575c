"""GRPO-PTR: reinforcement learning of reasoning and answer with a reasoning reward that must earn its trust."""
