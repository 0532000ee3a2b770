"""One file per model family, in full precision; models know nothing of bits."""
