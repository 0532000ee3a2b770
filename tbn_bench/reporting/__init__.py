"""Records to tables, figures and one page.

It computes and never measures. It imports no torch, no Lightning and no wandb.
"""
