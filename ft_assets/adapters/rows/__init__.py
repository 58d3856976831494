"""Rows of a split as the token ids that a trainer gets: tokenised, shortened, ordered, checked."""
