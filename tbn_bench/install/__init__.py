"""What an installation has: files that come with the package, and packages that its extras add."""
