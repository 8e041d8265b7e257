"""Forms that projects made from victoresque/pytorch-template use and new projects do not: 2018 to 2022.

Nothing else is here, so the room can be deleted once no such project is left. What leads here: base/__init__.py and
base/base_model.py (trainer.py, model.py), parse_config.py and utils/config/ (config.py, flags.py),
utils/runs/checkpoint.py (checkpoint.py), and the last lines of utils/__init__.py and logger/__init__.py (names.py).
"""
