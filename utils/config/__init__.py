"""All that parse_config.py stands on: reading, merging and checking configs, and finding what they name."""
