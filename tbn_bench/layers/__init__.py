"""torch modules of a converted network."""
