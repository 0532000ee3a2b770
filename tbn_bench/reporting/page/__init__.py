"""The page: one HTML file that works from disk. render.py joins the parts; what the browser does is in the .js files beside it."""
