"""What "3/5" means: one of the folds that a data set is dealt into."""

import re

from utils.errors import UserError, brief


def parse_fold(fold):
    """(3, 5) of "3/5": the third of five folds. Raises UserError for what is no fold."""
    match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", fold) if isinstance(fold, str) else None
    number, folds = map(int, match.groups()) if match else (0, 0)
    if folds < 2 or not 1 <= number <= folds:
        raise UserError(f"fold: got {brief(fold)}; give one of at least two, such as '3/5', the third of five")
    return number, folds
