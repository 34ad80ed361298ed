"""The error that reading and fitting checkpoints raise; in a module of its own, because both sides of it do."""


class CheckpointError(RuntimeError):
    """A checkpoint cannot be read, or does not fit what it is to be loaded into."""
