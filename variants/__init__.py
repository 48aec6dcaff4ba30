"""Other ways to train on the same pairs, held against the reference by diagnose/."""
