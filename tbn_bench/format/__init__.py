"""A binary weight on disk: bits, the places of a tile's copies, the stored form, the packed file. numpy alone."""
