"""The vector engines behind one protocol, and the code of each."""
