"""PPO from a reward model, with the KL penalty and the pretraining mix of InstructGPT."""
