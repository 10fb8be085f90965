"""Lane transports: how task envelopes reach workers."""
