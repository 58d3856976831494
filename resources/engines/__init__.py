"""The engines behind one protocol: what they can do alike, and how each of them does it."""
