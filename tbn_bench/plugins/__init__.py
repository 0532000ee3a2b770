"""Files of the user's own: load them, check them."""
