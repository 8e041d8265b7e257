"""What BaseModel had until February 2019."""


class OldModelForms:
    """The method summary, which old train.py call."""

    def summary(self) -> None:
        """Print the model and its number of trainable parameters."""
        print(self)
