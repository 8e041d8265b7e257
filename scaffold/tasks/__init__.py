"""A new project that trains on given data at once: what the data are, and what was chosen for them, task by task."""
