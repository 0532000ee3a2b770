"""Copies of a run elsewhere: W&B (offline by default), TensorBoard, MLflow.

W&B's files can be read back into the store. The record under results/ is the run. A mirror repeats
it, no number is ever read from one, and none can fail a run.
"""
