"""Several processes: who is there, what they tell each other, how they begin and end, and how they share a model."""
