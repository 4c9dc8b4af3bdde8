"""Training: objectives, optimisers, one loop, and the stages pretrain, sft, compare, reward and ppo."""
