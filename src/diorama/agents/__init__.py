"""What an agent proposes (actions) and what it has seen so far (transcripts): plain values, no model."""
