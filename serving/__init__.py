"""A trained model behind HTTP: see app.py."""
