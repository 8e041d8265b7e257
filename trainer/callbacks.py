"""YOURS: the callbacks of your own that "callbacks" in a config names, beside those of base/training.

A callback subclasses BaseCallback (base/base_callback.py) and overrides the moments at which it acts:

    class LogWeightNorm(BaseCallback):
        def on_epoch_end(self, trainer, log):
            log["weight_norm"] = sum(p.square().sum() for p in trainer.model.parameters()).sqrt()
"""
