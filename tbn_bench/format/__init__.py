"""A binary weight on disk: bits, layouts of copies, stored form, packed file. numpy alone."""
