"""Forms that projects made from victoresque/pytorch-template use and new projects do not: 2018 to 2022.

What leads here: base/__init__.py and base/base_model.py (trainer.py, model.py), parse_config.py and utils/config/
(config.py, flags.py), utils/runs/checkpoint.py (checkpoint.py), the last lines of utils/__init__.py and
logger/__init__.py (names.py), and the first lines of these two, base/__init__.py and parse_config.py (nested.py).
config.py leads to named.py, as new_project.py --adopt does; what --adopt keeps in a project leads to own_config.py.

New projects need this of the room: load_old_checkpoint (checkpoint.py), which also reads the files of plain
torch.save, and trainer_settings and copies of ConfigParser (config.py). Move them before the room is deleted.
"""
