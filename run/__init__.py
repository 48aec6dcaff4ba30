"""What keeps a run safe and is in no paper. Imports disk/, model.py and data.py alone."""
