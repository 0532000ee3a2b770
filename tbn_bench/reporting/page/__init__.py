"""The page: one HTML file that works from disk.

render.py joins the parts. The .js files beside it run in the browser.
"""
