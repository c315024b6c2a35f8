"""Training one role: SFT, then DPO, on packed prefix trees."""
