"""A sweep file becomes checked configurations, then runs."""
