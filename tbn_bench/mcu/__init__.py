"""A trained network as a C library for microcontrollers: export, build, simulate, measure."""
