"""A model and the work of one step: loading, attention, summed loss, and what it costs."""
