"""Several processes that do one work together: whose turn it is, and what they tell each other."""
