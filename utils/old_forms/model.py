"""What BaseModel had until February 2019."""

import logging


class OldModelForms:
    """The method summary, which old train.py call."""

    def summary(self) -> None:
        """Log the model and its number of trainable parameters."""
        logging.getLogger(type(self).__name__).info("%s", self)
