"""The contract of each shelf: what every entry must do, as functions that raise Broken.

The tests of this package call them for every entry; `tbn-bench check` for those of a plugin.
"""
