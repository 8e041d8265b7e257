"""The steps of moving an older project in, for scaffold/adopt.py."""
