"""One file per method; the file's name is the entry's name."""
