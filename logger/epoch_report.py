"""Put an epoch's results into a few lines of at most 80 columns."""


def epoch_report(log, epochs, seconds, improved):
    """Text for the console: training values on one line, validation values below them. log: {name: number}."""
    head = f"epoch {log['epoch']}/{epochs}  {seconds:.1f} s" + ("  best so far" if improved else "")
    values = {key: value for key, value in log.items() if key != "epoch"}
    train = [_item(key, value) for key, value in values.items() if not key.startswith("val_")]
    valid = [_item(key, value) for key, value in values.items() if key.startswith("val_")]
    width = max((len(item) for item in train + valid), default=0)
    return "\n".join([head, *_rows(train, width), *_rows(valid, width)])


def _item(key, value):
    return f"{key} {value:.4g}" if isinstance(value, (int, float)) else f"{key} {value}"


def _rows(items, width):
    per_row = max(1, 76 // (width + 3))
    rows = [items[i : i + per_row] for i in range(0, len(items), per_row)]
    return ["    " + "   ".join(item.ljust(width) for item in row).rstrip() for row in rows]
