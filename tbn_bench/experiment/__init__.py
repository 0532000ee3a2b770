"""One run: built, trained, tested, exported, verified."""
