"""Another source of labels: whether it is the official one, and by which changes it is not."""
