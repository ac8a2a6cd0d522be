"""What a label says of its token."""

__all__ = ["IGNORED"]

IGNORED = -100  # of a token that is no target: what the models of transformers ignore
