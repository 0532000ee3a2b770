"""The arena's questions, each answered from records: a figure, two sentences and paired tests.

answers.py has the list. Every answer that the records cannot give names the command that would.
"""
