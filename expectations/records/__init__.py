"""Records of a data set: read from files, converted between formats, compared for duplicates, quarantined."""
