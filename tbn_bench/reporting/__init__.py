"""Records to tables, figures and one page. Imports no torch, no Lightning, no wandb; computes, never measures."""
