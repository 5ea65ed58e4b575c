"""Qwen2.5-Omni's thinker, and models of its class, through every training stage: `stages.run`.

configs     a dataclass per stage: prosody, sft, grpo, eval
dialogue    what is asked and how it is answered; EmotionThinker's own words
processor   conversations with audio to the model's inputs
model       folders to models: published, thinker alone, or LoRA adapter
rows        views of the data engine, read and checked, mixed by weights
collator    rows to a training batch
supervised  stages `prosody` and `sft`
reinforced  stage `grpo`, by the trainer that reinforces nano
evaluate    stage `eval`
run_folder  a run's folder: what a run was, where it goes on, how its result appears
"""
