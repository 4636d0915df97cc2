"""What makes a reward model a good teacher: the study of 02_reward_variance."""
