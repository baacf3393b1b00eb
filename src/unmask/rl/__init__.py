"""Reinforcement learning of unmasking policies: roll-outs, rewards, GRPO, the trainer."""
