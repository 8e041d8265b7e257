"""What a training run is made of: steps, batches, schedules, measuring, callbacks, checkpoints."""
