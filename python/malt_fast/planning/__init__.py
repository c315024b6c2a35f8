"""What a run will take: hours, tokens, examples, memory and disk, extrapolated from a probe."""

PROBE = 250  # questions
