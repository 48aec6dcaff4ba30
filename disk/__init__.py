"""Files written whole or not at all, one-line errors, the photo store. Imports nothing above."""
