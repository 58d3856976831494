"""The lexical arm by BM25: terms of a text, weights of a passage, and the vector of a query. Needs the base install."""
