"""Questions made from a passage: the spans that can be answers, the prompts, and the rules for a question."""
