"""``overpaint evaluate augmentation``: do edits help a training set? Not part of the wheel."""
